"""Hard frames: those on which the detector was unsure, stored so that they can be labeled elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.thresholds import thresholds
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.frame_copies import CopiedFrame, FrameCopies
from edgesparse.service.monitor.hard_files import HardFiles, HardFrame, SeenObject
from edgesparse.service.monitor.hard_settings import REASONS, HardFrameSettings, Reason
from edgesparse.service.monitor.obscure import obscured
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.sinks.json_lines import wall_time
from edgesparse.stream.sinks.writing import writable_folder
from edgesparse.stream.tracks import MOST_MISSED

log = logging.getLogger("edgesparse.service")

QUALITY = 95
LONGEST_GAP = MOST_MISSED + 1
"""Frames after which a track does not come back."""


class _Blinks:
    """The tracks of one camera: which of them come back after frames without them."""

    def __init__(self) -> None:
        self._frame = 0
        self._seen: dict[int, int] = {}

    def add(self, track_id: NDArray[np.int64]) -> bool:
        """Take the tracks of the next frame. Returns whether one was missing in between."""
        self._frame += 1
        blinked = False
        for track in track_id.tolist():
            if track >= 0:
                blinked |= 1 < self._frame - self._seen.get(track, self._frame) <= LONGEST_GAP
                self._seen[track] = self._frame
        if self._frame % LONGEST_GAP == 0:
            self._seen = {track: seen for track, seen in self._seen.items() if self._frame - seen <= LONGEST_GAP}
        return blinked


class HardFrames:
    """`offer` is called in the frame loop's thread, everything else in others. Raises SinkError if the folder is not
    writable. Release it with `close`.
    """

    def __init__(self, settings: HardFrameSettings, folder: Path, engine: LoadedEngine) -> None:
        self._settings = settings
        place = writable_folder(settings.folder or folder / "hard")
        self._files = HardFiles(place, settings.disk, settings.per_day)
        self._pause_ns = int(settings.pause * 1e9)
        self._due: dict[str, int] = {}
        self._blinks: dict[str, _Blinks] = {}
        self._least: Mapping[str, NDArray[np.float32]] = {}
        """The minimum confidence per class of each camera."""
        self.stored: Counter[tuple[str, str]] = Counter()
        """Frames stored since the service started, by camera and reason."""
        self.trouble = ""
        """Why frames cannot be stored; empty while they can."""
        self._lock = threading.Lock()
        self.engine(engine)
        self._copies = FrameCopies("hard frames", self.add)

    def offer(self, frame: Frame, detections: Detections) -> None:
        """Copy the frame if it is hard and none was stored shortly before. Never waits."""
        reasons = self._reasons(frame, detections)
        if (
            reasons
            and frame.time_ns >= self._due.get(frame.source, 0)
            and self._copies.offer(frame, detections, reasons)
        ):
            self._due[frame.source] = frame.time_ns + self._pause_ns

    def _reasons(self, frame: Frame, detections: Detections) -> tuple[Reason, ...]:
        allowed, reasons = self._settings.reasons, list[Reason]()
        if "near" in allowed and len(detections) and (least := self._least.get(frame.source)) is not None:
            known = detections.class_id < len(least)  # for a moment after a reload there may be more classes
            apart = np.abs(detections.confidence[known] - least[detections.class_id[known]])
            reasons += ["near"] if (apart < self._settings.near).any() else []
        if "blink" in allowed and detections.track_id is not None:
            blinks = self._blinks.get(frame.source)
            if blinks is None:
                blinks = self._blinks.setdefault(frame.source, _Blinks())
            reasons += ["blink"] if blinks.add(detections.track_id) else []
        return tuple(reasons)

    def engine(self, engine: LoadedEngine) -> None:
        """Go on with this engine and its cameras."""
        self._engine, names = engine, engine.identity.classes
        cameras = engine.run.all_cameras()
        self._least = {camera.name: thresholds(engine.run.seen_by(camera), names) for camera in cameras}
        self._blinks = {}

    def state(self) -> dict[str, Any]:
        """Return the JSON-compatible state."""
        files, reasons = self._files, Counter[str]()
        for (_, reason), count in list(self.stored.items()):
            reasons[reason] += count
        return {
            "stored": len(files),
            "bytes": files.bytes,
            "today": files.today(time.monotonic_ns()),
            "per_day": self._settings.per_day,
            "reasons": dict(reasons),
            "trouble": self.trouble,
        }

    def close(self) -> None:
        self._copies.close()

    def disagreed(self, frame: CopiedFrame) -> None:
        """Store a frame on which a shadow engine disagrees, if none was stored shortly before."""
        wants = "disagreement" in self._settings.reasons
        if wants and frame.time_ns >= self._due.get(frame.camera, 0):
            self._due[frame.camera] = frame.time_ns + self._pause_ns
            self.add(frame)

    def add(self, frame: CopiedFrame) -> None:
        """Store a frame, within the budget. Called from any thread but the frame loop's."""
        with self._lock:
            try:
                self._store(frame)
                self.trouble = ""
            except (OSError, SinkError) as error:
                if str(error) != self.trouble:
                    self.trouble = str(error)
                    log.warning("hard frames: cannot write: %s", error)

    def _store(self, frame: CopiedFrame) -> None:
        now_ns, taken = time.monotonic_ns(), wall_time(frame.time_ns)
        if self._files.today(now_ns) >= self._settings.per_day:
            return
        image = obscured(frame.image, frame.detections, self._settings.blur)
        ok, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        if not ok:
            raise SinkError("the frame cannot be encoded as JPEG")
        name = f"{taken.translate(_PLAIN)}_{frame.camera}"
        if self._files.store(
            jpeg.tobytes(), name, now_ns, lambda file, sha256: self._record(frame, taken, file, sha256)
        ):
            self.stored.update((frame.camera, reason) for reason in frame.reasons)

    def _record(self, frame: CopiedFrame, taken: str, file: str, sha256: str) -> HardFrame:
        identity, detections = self._engine.identity, frame.detections
        rows = zip(detections.xyxy.tolist(), detections.confidence.tolist(), detections.class_id.tolist(), strict=True)
        return HardFrame(
            file=file,
            sha256=sha256,
            camera=frame.camera,
            time=taken,
            reasons=tuple(reason for reason in REASONS if reason in frame.reasons),
            model=identity.model,
            package=identity.package,
            engine=identity.sha256,
            classes=identity.classes,
            width=frame.image.shape[1],
            height=frame.image.shape[0],
            blur=self._settings.blur,
            detections=tuple(
                SeenObject(
                    name=class_name(identity.classes, class_id),
                    class_id=class_id,
                    confidence=min(1.0, round(confidence, 4)),
                    box=tuple(round(value, 1) for value in box),
                )
                for box, confidence, class_id in rows
            ),
        )


_PLAIN = str.maketrans("", "", "-:.")
