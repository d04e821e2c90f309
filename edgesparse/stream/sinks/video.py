"""A sink that records an annotated video."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.draw import Canvas
from edgesparse.stream.sinks.recorder import Recorder
from edgesparse.stream.sinks.writing import check_writable

log = logging.getLogger("edgesparse.stream")


_LEAST_STEP_NS = 1_000_000


class Video(Sink):
    """An annotated video: .mp4 (H.264, or VP8 where this machine has no encoder for that), .webm (VP8) or .avi (Motion
    JPEG).

    However the process ends, the file can be played up to its last second. Images are shown as long as in the source:
    by their times in a video file, by the clock for a camera, at `fps` for image files. Frames of a different size are
    letterboxed to the size of the first. Raises SinkError.
    """

    def __init__(self, path: str | Path, names: Sequence[str], fps: float = 0.0, *, force: bool = False) -> None:
        path, fps = Path(path), fps or 30.0
        self._recorder = Recorder(path, fps, force=force)
        check_writable(path, force)
        self._clock = _Clock(round(1e9 / fps))
        self._canvas, self._fit = Canvas(names), Fit(path)

    def write(self, frame: Frame, detections: Detections) -> None:
        image = self._fit(self._canvas.annotated(frame, detections))
        self._recorder.add(image, self._clock.time_of(frame))

    def close(self) -> None:
        self._recorder.close()


class _Clock:
    """The time at which each frame is shown, in nanoseconds from the first."""

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns
        self._origin: int | None = None
        self._last = -period_ns

    def time_of(self, frame: Frame) -> int:
        """Return a time later than the previous frame's, even if the source's own times go backwards."""
        own = frame.position_ns if frame.position_ns is not None else frame.index * self.period_ns
        if frame.live:
            own = frame.time_ns
        if self._origin is None:
            self._origin = own
        time_ns = own - self._origin
        if time_ns < self._last + _LEAST_STEP_NS:
            time_ns = self._last + self.period_ns
            self._origin = own - time_ns
        self._last = time_ns
        return time_ns


class Fit:
    """Letterboxes images to the size of the first."""

    def __init__(self, path: Path) -> None:
        self._path, self._warned = path, False
        self._fitted: Image = np.empty((0, 0, 3), np.uint8)

    def __call__(self, image: Image) -> Image:
        if not self._fitted.size:
            self._fitted = np.zeros_like(image)
        if image.shape == self._fitted.shape:
            return image
        (height, width), (rows, columns) = self._fitted.shape[:2], image.shape[:2]
        if not self._warned:
            self._warned = True
            change = f"from {width}x{height} to {columns}x{rows}"
            log.warning("%s: frames changed %s; fitted into the first size", self._path, change)
        scale = min(width / columns, height / rows)
        fit_width, fit_height = max(1, round(columns * scale)), max(1, round(rows * scale))
        left, top = (width - fit_width) // 2, (height - fit_height) // 2
        self._fitted[...] = 0
        inner = self._fitted[top : top + fit_height, left : left + fit_width]
        cv2.resize(image, (fit_width, fit_height), dst=inner, interpolation=cv2.INTER_AREA)
        return self._fitted
