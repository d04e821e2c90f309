"""A sink that records an annotated video."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from edgesparse.errors import SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.recording.avi import AviMuxer
from edgesparse.stream.recording.encoders import Encoder, JpegEncoder, VideoEncoder
from edgesparse.stream.recording.matroska import WebmMuxer
from edgesparse.stream.recording.mp4 import Mp4Muxer
from edgesparse.stream.recording.packets import Muxer, Packet
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.draw import Canvas
from edgesparse.stream.sinks.writing import check_writable, failing

log = logging.getLogger("edgesparse.stream")


@dataclass(frozen=True)
class Format:
    fourcc: str
    encoder: type[VideoEncoder] | type[JpegEncoder]
    muxer: type[Muxer]


FORMATS = {
    ".mp4": Format("mp4v", VideoEncoder, Mp4Muxer),
    ".webm": Format("VP80", VideoEncoder, WebmMuxer),
    ".avi": Format("MJPG", JpegEncoder, AviMuxer),
}
"""By the ending of the file's name. Browsers play WebM (VP8), which takes longest to encode."""

SEGMENT_NS = 1_000_000_000
"""What is lost at most when the process is killed."""
SPARE_BYTES = 16 << 20
"""Recording stops when the disk has less than that."""
_LEAST_STEP_NS = 1_000_000


class Video(Sink):
    """An annotated video: .mp4 (MPEG-4 Part 2), .webm (VP8) or .avi (Motion JPEG).

    Whatever ends the process, the file can be played up to its last second. Images are shown for as long as they were
    in the source: by their times in a video file, by the clock for a camera, at `fps` for image files. Frames of
    another size than the first are fitted into that. Raises SinkError.
    """

    def __init__(self, path: str | Path, names: Sequence[str], fps: float = 0.0, *, force: bool = False) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in FORMATS:
            raise SinkError(f"cannot write {path}: a video's name ends in one of {', '.join(FORMATS)}")
        check_writable(self._path, force)
        self._format, self._force = FORMATS[self._path.suffix.lower()], force
        fps = fps or 30.0
        self._clock = _Clock(round(1e9 / fps))
        self._encoder: Encoder = self._format.encoder(self._format.fourcc, fps)
        self._canvas, self._fit = Canvas(names), _Fit(self._path)
        self._pending: list[int] = []
        """Times of the images of the present segment."""
        self._file: BinaryIO | None = None
        self._muxer: Muxer | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        if shutil.disk_usage(self._path.parent).free < SPARE_BYTES:
            raise SinkError(f"cannot write {self._path}: {os.strerror(errno.ENOSPC)}")
        image = self._fit(self._canvas.annotated(frame, detections))
        time_ns = self._clock.time_of(frame)
        if self._pending and time_ns - self._pending[0] >= SEGMENT_NS:
            self._end_segment()
        self._encoder.add(image)
        self._pending.append(time_ns)

    def _end_segment(self) -> None:
        times, self._pending = self._pending, []
        track, encoded = self._encoder.finish()
        if len(encoded) != len(times):
            raise SinkError(f"cannot write {self._path}: {len(times)} images were encoded as {len(encoded)}")
        packets = [Packet(data, time_ns, key) for (data, key), time_ns in zip(encoded, times, strict=True)]
        with failing(self._path):
            if self._muxer is None or self._file is None:
                self._file = self._path.open("wb" if self._force else "xb")
                self._muxer = self._format.muxer(self._file, track, self._clock.period_ns)
            end = self._file.tell()
            try:
                self._muxer.append(packets)
            except OSError:
                self._give_up(end)
                raise

    def _give_up(self, end: int) -> None:
        """Leave whole segments only."""
        file, self._file, self._muxer = self._file, None, None
        assert file is not None
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            os.truncate(self._path, end)

    def close(self) -> None:
        try:
            if self._pending:
                self._end_segment()
            muxer, self._muxer = self._muxer, None
            with failing(self._path):
                if muxer is not None:
                    muxer.close()
        finally:
            self._encoder.close()
            file, self._file = self._file, None
            if file is not None:
                with failing(self._path):
                    file.close()


class _Clock:
    """When each frame is shown, in nanoseconds from the first."""

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns
        self._origin: int | None = None
        self._last = -period_ns

    def time_of(self, frame: Frame) -> int:
        """Later for each frame; where the source's own times go back, it continues after the last."""
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


class _Fit:
    """Letterboxes images into the size of the first."""

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
