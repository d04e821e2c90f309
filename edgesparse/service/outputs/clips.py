"""A short video around each event, from a ring of the snapshots before it; bounded in number and on disk."""

from __future__ import annotations

import logging
import queue
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from edgesparse.errors import SinkError
from edgesparse.service.outputs.base import Output
from edgesparse.service.outputs.events import Happening
from edgesparse.service.settings import Clips as Said
from edgesparse.service.snapshots import Snapshot
from edgesparse.stream.frames import Image
from edgesparse.stream.sinks.writing import writable_folder

log = logging.getLogger("edgesparse.service")

LONGEST_SECONDS = 60.0
"""Of one clip, however often its event comes again."""
SPARE_BYTES = 64 << 20
"""What must stay free on the disk."""
MOST_WAITING = 4
_NAME = re.compile(r"\d{8}T\d{6}\d{3}Z_.+\.mp4")


class _Ring:
    """One camera's newest snapshots, and the clip that is being gathered."""

    def __init__(self) -> None:
        self.snapshots: deque[Snapshot] = deque()
        self.name = ""
        self.begun_ns = self.until_ns = 0


class Clips:
    """`happened` is called in the frame loop's thread, `snapshot` in the one that makes snapshots; videos are written
    in a third. Raises SinkError when the folder cannot be written to."""

    def __init__(self, said: Said, folder: Path, fps: float) -> None:
        self.output = Output("clips")
        self.folder = writable_folder(folder)
        self._said, self._fps = said, fps
        self._before, self._after = int(said.before * 1e9), int(said.after * 1e9)
        self._rings: dict[str, _Ring] = {}
        self._lock = threading.Lock()
        self._ready: queue.Queue[tuple[str, Sequence[Snapshot]] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._thread.start()

    def happened(self, happening: Happening) -> None:
        """Begin a clip, or let the one that is being gathered go on."""
        with self._lock:
            ring = self._rings.setdefault(happening.camera, _Ring())
            if not ring.name:
                ring.name = f"{_stamp(happening.time_ns)}_{happening.camera}_{happening.event}.mp4"
                ring.begun_ns = happening.time_ns - self._before
            longest = ring.begun_ns + int(LONGEST_SECONDS * 1e9)
            ring.until_ns = min(happening.time_ns + self._after, longest)

    def snapshot(self, camera: str, snapshot: Snapshot) -> None:
        """One more snapshot of a camera."""
        with self._lock:
            ring = self._rings.setdefault(camera, _Ring())
            whole = ring.name and snapshot.time_ns > ring.until_ns
            if whole:
                self._hand_over(ring)
            ring.snapshots.append(snapshot)
            oldest = min(snapshot.time_ns - self._before, ring.begun_ns if ring.name else snapshot.time_ns)
            while ring.snapshots[0].time_ns < oldest:
                ring.snapshots.popleft()

    def free(self) -> None:
        """Let go of all snapshots, for want of memory."""
        with self._lock:
            self._rings.clear()

    def _hand_over(self, ring: _Ring) -> None:
        snapshots = [p for p in ring.snapshots if ring.begun_ns <= p.time_ns <= ring.until_ns]
        name, ring.name = ring.name, ""
        try:
            self._ready.put_nowait((name, snapshots))
            self.output.waiting = self._ready.qsize()
        except queue.Full:
            self.output.dropped += 1
            log.warning("clips: %s is left out: the disk is too slow", name)

    def close(self) -> None:
        """Write what is being gathered."""
        with self._lock:
            for ring in self._rings.values():
                if ring.name and ring.snapshots:
                    self._hand_over(ring)
        with suppress(queue.Full):
            self._ready.put(None, timeout=1.0)
        self._thread.join(2.5)

    # What follows runs in the thread that writes.

    def _run(self) -> None:
        while (found := self._ready.get()) is not None:
            name, snapshots = found
            try:
                self._make_room()
                self._write(self.folder / name, snapshots)
                self.output.sent += 1
                self.output.state = ""
            except (OSError, SinkError, cv2.error) as error:
                self.output.failed += 1
                self.output.state = str(error)
                log.warning("clips: cannot write %s: %s", name, error)
            self.output.waiting = self._ready.qsize()

    def _make_room(self) -> None:
        clips = [(path, path.stat().st_size) for path in sorted(self.folder.iterdir()) if _NAME.fullmatch(path.name)]
        size, count = sum(size for _, size in clips), len(clips)
        for path, bytes_ in clips:
            if count < self._said.most and size < self._said.disk:
                break
            path.unlink(missing_ok=True)
            size, count = size - bytes_, count - 1
        if shutil.disk_usage(self.folder).free < SPARE_BYTES:
            raise SinkError(f"less than {SPARE_BYTES >> 20} MB are free")

    def _write(self, path: Path, snapshots: Sequence[Snapshot]) -> None:
        """In the pace that they came in: a snapshot is written again where the next came late."""
        if not snapshots:
            raise SinkError("no snapshot of that time")
        part = path.with_name(f".{path.stem}.part.mp4")
        try:
            self._encode(part, snapshots)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _encode(self, part: Path, snapshots: Sequence[Snapshot]) -> None:
        height, width = _decoded(snapshots[0]).shape[:2]
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, (width, height))
        if not writer.isOpened():
            raise SinkError(f"OpenCV has no encoder for {width}x{height} here")
        try:
            written, begun = 0, snapshots[0].time_ns
            for snapshot in snapshots:
                image = _decoded(snapshot)
                if image.shape[:2] != (height, width):
                    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
                due = round((snapshot.time_ns - begun) / 1e9 * self._fps) + 1
                while written < due:
                    writer.write(image)
                    written += 1
        finally:
            writer.release()


def _decoded(snapshot: Snapshot) -> Image:
    image = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None  # it was encoded here
    return image


def _stamp(time_ns: int) -> str:
    """The wall clock's time of a monotonic one, in UTC, to the millisecond; sorts as text."""
    wall = datetime.fromtimestamp((time.time_ns() - time.monotonic_ns() + time_ns) / 1e9, timezone.utc)
    return wall.strftime("%Y%m%dT%H%M%S") + f"{wall.microsecond // 1000:03d}Z"
