"""A short video around each event, with a JPEG of the event itself; bounded in number and in bytes."""

from __future__ import annotations

import logging
import queue
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, ClassVar

import cv2
import numpy as np
from pydantic import Field

from edgesparse.errors import SinkError
from edgesparse.files import replacing, sync
from edgesparse.service.outputs.base import Count, Output, OutputContext, OutputSettings, OutputState
from edgesparse.service.outputs.events import Event
from edgesparse.service.snapshots import Snapshot
from edgesparse.stream.frames import Image
from edgesparse.stream.sinks.recorder import Recorder, browser_suffix
from edgesparse.stream.sinks.video import Fit
from edgesparse.stream.sinks.writing import writable_folder
from edgesparse.supervised import Supervised
from edgesparse.values import Memory

log = logging.getLogger("edgesparse.service")

MAX_SECONDS = 60.0
"""Longest clip, however often its event repeats."""
SPARE_BYTES = 64 << 20
"""Bytes that must stay free on the disk."""
MAX_WAITING = 4
_NAME = re.compile(r"(?:(?P<number>\d{6,12})_)?\d{8}T\d{6}\d{3}Z_.+\.(mp4|webm)")
_UNFINISHED = re.compile(r"\.\d{6,12}_\d{8}T\d{9}Z_.+\.(part\.(mp4|webm)|jpg\.\d+\.part)")


class ClipsSettings(OutputSettings):
    """A short video around each event."""

    needs_events: ClassVar[bool] = True

    folder: Path | None = None
    """Default: `clips` in the state folder."""
    before: Annotated[float, Field(ge=0, le=60)] = 4.0
    """Seconds before the event."""
    after: Annotated[float, Field(ge=0, le=60)] = 4.0
    """Seconds after the event."""
    most: Count = 200
    """Clips to keep; the oldest are removed."""
    disk: Memory = 2_000_000_000
    """Total bytes of clips to keep; the oldest are removed."""


class _Ring:
    """One camera's newest snapshots, and the clip being collected."""

    def __init__(self) -> None:
        self.snapshots: deque[Snapshot] = deque()
        self.name = ""
        self.events: dict[str, Event] = {}
        """The events in the clip by id, each as first reported."""
        self.begin_ns = self.end_ns = 0


_Collected = tuple[str, Sequence[Snapshot], Sequence[Event]]
"""The name of a clip, its snapshots, and the events in it."""


class Clips(Output):
    """`event` is called in the frame loop's thread, `snapshot` in the encoder's; videos are written in a third.

    Files are named NUMBER_TIME_CAMERA_EVENT.mp4, or .webm on a machine without H.264. The number only grows, so the
    order of clips does not depend on the clock, which many boards start in 1970. Raises SinkError if the folder is
    not writable.
    """

    settings_type = ClipsSettings
    uses_snapshots = True

    def __init__(self, settings: ClipsSettings, context: OutputContext) -> None:
        self.state = OutputState("clips")
        self.folder = writable_folder(settings.folder or context.folder / "clips")
        for path in self.folder.iterdir():
            if _UNFINISHED.fullmatch(path.name):  # of a kill or a power cut
                path.unlink(missing_ok=True)
        self._settings, self._fps = settings, context.snapshots.fps
        self._before_ns, self._after_ns = int(settings.before * 1e9), int(settings.after * 1e9)
        self._rings: dict[str, _Ring] = {}
        self._lock = threading.Lock()
        self._announce = context.announce
        self._ready: queue.Queue[_Collected | None] = queue.Queue(MAX_WAITING)
        self._thread = Supervised("clips", self._run)

    def event(self, event: Event) -> None:
        """Start a clip, or extend the one being collected."""
        if not event.detected:
            return
        with self._lock:
            ring = self._rings.setdefault(event.camera, _Ring())
            if not ring.name:
                ring.name = f"{_timestamp(event.time_ns)}_{event.camera}_{event.name}"
                ring.begin_ns = event.time_ns - self._before_ns
            ring.events.setdefault(event.id, event)
            ring.end_ns = min(event.time_ns + self._after_ns, ring.begin_ns + int(MAX_SECONDS * 1e9))

    def snapshot(self, camera: str, snapshot: Snapshot) -> None:
        with self._lock:
            ring = self._rings.setdefault(camera, _Ring())
            if ring.name and snapshot.time_ns > ring.end_ns:
                self._finish(ring)
            ring.snapshots.append(snapshot)
            oldest = min(snapshot.time_ns - self._before_ns, ring.begin_ns if ring.name else snapshot.time_ns)
            while ring.snapshots[0].time_ns < oldest:
                ring.snapshots.popleft()

    def free(self) -> None:
        with self._lock:
            self._rings.clear()

    def _finish(self, ring: _Ring) -> None:
        """Pass the collected clip to the writing thread."""
        snapshots = [snapshot for snapshot in ring.snapshots if ring.begin_ns <= snapshot.time_ns <= ring.end_ns]
        name, events, ring.name, ring.events = ring.name, list(ring.events.values()), "", {}
        try:
            self._ready.put_nowait((name, snapshots, events))
            self.state.waiting = self._ready.qsize()
        except queue.Full:
            self.state.dropped += 1
            log.warning("clips: %s is dropped: the disk is too slow", name)

    def close(self) -> None:
        """Write the clips being collected, then stop."""
        self._thread.leave()
        with self._lock:
            for ring in self._rings.values():
                if ring.name and ring.snapshots:
                    self._finish(ring)
        with suppress(queue.Full):
            self._ready.put(None, timeout=1.0)
        self._thread.join(2.5)

    # The rest runs in the writing thread.

    def _run(self) -> None:
        while (clip := self._ready.get()) is not None:
            name, snapshots, events = clip
            try:
                path = self.folder / f"{self._make_room():06d}_{name}{browser_suffix()}"
                self._write(path, snapshots)
                still = self._write_still(path, snapshots, events[0].time_ns)
                for event in events:
                    values = {"clip": str(path), "snapshot": str(still)}
                    self._announce(event.follow("clip", event.time_ns, time=event.record.get("time"), **values))
                self.state.sent += 1
                self.state.state = ""
            except Exception as error:  # the thread must survive whatever a disk or an encoder raises
                self.state.failed += 1
                self.state.state = str(error) or type(error).__name__
                log.warning("clips: cannot write %s: %s", name, self.state.state)
            self.state.waiting = self._ready.qsize()

    def _make_room(self) -> int:
        """Remove the oldest clips beyond the limits. Returns the next clip's number; raises SinkError on a full
        disk."""
        clips = sorted(
            (_number(path.name), path.name, path.stat().st_size + _size(path.with_suffix(".jpg")), path)
            for path in self.folder.iterdir()
            if _NAME.fullmatch(path.name) and path.is_file()
        )
        size, count = sum(clip[2] for clip in clips), len(clips)
        for _, _, clip_bytes, path in clips:
            if count < self._settings.most and size < self._settings.disk:
                break
            path.unlink(missing_ok=True)
            path.with_suffix(".jpg").unlink(missing_ok=True)
            size, count = size - clip_bytes, count - 1
        if shutil.disk_usage(self.folder).free < SPARE_BYTES:
            raise SinkError(f"less than {SPARE_BYTES >> 20} MB are free")
        return clips[-1][0] + 1 if clips else 1

    def _write(self, path: Path, snapshots: Sequence[Snapshot]) -> None:
        if not snapshots:
            raise SinkError("no snapshot of that time")
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            self._encode(part, snapshots)
            sync(part)  # otherwise a power cut may leave an empty clip
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _write_still(self, clip: Path, snapshots: Sequence[Snapshot], time_ns: int) -> Path:
        """Write the snapshot that is nearest to that time next to the clip."""
        path = clip.with_suffix(".jpg")
        with replacing(path, synced=True) as file:
            file.write(min(snapshots, key=lambda snapshot: abs(snapshot.time_ns - time_ns)).jpeg)
        return path

    def _encode(self, part: Path, snapshots: Sequence[Snapshot]) -> None:
        """Write the snapshots at the rate at which they were taken."""
        fit = Fit(part)
        with closing(Recorder(part, self._fps)) as recorder:
            for snapshot in snapshots:
                recorder.add(fit(_decoded(snapshot)), snapshot.time_ns - snapshots[0].time_ns)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _number(name: str) -> int:
    """Return a clip's number; 0 for clips of older releases, whose names start with the time."""
    match = _NAME.fullmatch(name)
    return int(match["number"] or 0) if match else 0


def _decoded(snapshot: Snapshot) -> Image:
    image = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None  # encoded by this process, so it decodes
    return image


def _timestamp(time_ns: int) -> str:
    """Return the UTC wall-clock time of a monotonic time, with milliseconds."""
    wall = datetime.fromtimestamp((time.time_ns() - time.monotonic_ns() + time_ns) / 1e9, timezone.utc)
    return wall.strftime("%Y%m%dT%H%M%S") + f"{wall.microsecond // 1000:03d}Z"
