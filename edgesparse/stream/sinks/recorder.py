"""Writes images to a video file that can be played up to its last second, however the process ends."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import BinaryIO

from edgesparse.errors import SinkError
from edgesparse.stream.frames import Image
from edgesparse.stream.recording.avi import AviMuxer
from edgesparse.stream.recording.encoders import Encoder, JpegEncoder, Vp8Encoder
from edgesparse.stream.recording.h264 import h264_here, open_h264
from edgesparse.stream.recording.matroska import WebmMuxer
from edgesparse.stream.recording.mp4 import Mp4Muxer
from edgesparse.stream.recording.packets import Muxer, Packet
from edgesparse.stream.sinks.writing import failing

log = logging.getLogger("edgesparse.stream")

SEGMENT_NS = 1_000_000_000
"""The most that is lost if the process is killed: of the recording, and of a slow detector's work."""
SPARE_BYTES = 16 << 20
"""Recording stops when less disk space than this is free."""


@dataclass(frozen=True)
class Format:
    encoder: Callable[[Path, float, Image], Encoder]
    """Opens the encoder for a file's path, the nominal frames per second and the first image."""
    muxer: type[Muxer]


def _mp4_encoder(path: Path, fps: float, image: Image) -> Encoder:
    try:
        return open_h264(image.shape[1], image.shape[0])
    except SinkError as error:
        log.warning("%s gets VP8, which Safari does not play in MP4 (name it .webm): %s", path, error)
        return Vp8Encoder(fps)


FORMATS = {
    ".mp4": Format(_mp4_encoder, Mp4Muxer),
    ".webm": Format(lambda _, fps, __: Vp8Encoder(fps), WebmMuxer),
    ".avi": Format(lambda *_: JpegEncoder(), AviMuxer),
}
"""Formats by file name suffix. All browsers play H.264 in MP4 and VP8 in WebM."""


def browser_suffix() -> str:
    """The suffix of the format that browsers play and this machine encodes fastest: .mp4 with H.264, else .webm."""
    return ".mp4" if h264_here()[0] else ".webm"


class Recorder:
    """Images of one size, BGR uint8 [H, W, 3], and when each is shown; the file is created with the first second.

    Raises SinkError."""

    def __init__(self, path: Path, fps: float, *, force: bool = False) -> None:
        """`fps`: nominal frames per second, for how long the last image is shown. `force`: overwrite."""
        if path.suffix.lower() not in FORMATS:
            raise SinkError(f"cannot write {path}: a video's name ends in one of {', '.join(FORMATS)}")
        self._path, self._fps, self._force = path, fps, force
        self._format = FORMATS[path.suffix.lower()]
        self._encoder: Encoder | None = None
        self._pending: list[int] = []
        """Times of the images in the current segment."""
        self._began_ns = 0
        self._file: BinaryIO | None = None
        self._muxer: Muxer | None = None

    def add(self, image: Image, time_ns: int) -> None:
        """Add an image. `time_ns`: nanoseconds since the start of the recording, later than the previous image's."""
        if shutil.disk_usage(self._path.parent).free < SPARE_BYTES:
            raise SinkError(f"cannot write {self._path}: {os.strerror(errno.ENOSPC)}")
        if self._encoder is None:
            self._encoder = self._format.encoder(self._path, self._fps, image)
        if self._pending and max(time_ns - self._pending[0], monotonic_ns() - self._began_ns) >= SEGMENT_NS:
            self._end_segment(self._encoder)
        if not self._pending:
            self._began_ns = monotonic_ns()
        self._encoder.add(image)
        self._pending.append(time_ns)

    def _end_segment(self, encoder: Encoder) -> None:
        times, self._pending = self._pending, []
        track, encoded = encoder.finish()
        if len(encoded) != len(times):
            raise SinkError(f"cannot write {self._path}: {len(times)} images were encoded as {len(encoded)}")
        packets = [Packet(data, time_ns, key) for (data, key), time_ns in zip(encoded, times, strict=True)]
        with failing(self._path):
            if self._muxer is None or self._file is None:
                self._file = self._path.open("wb" if self._force else "xb")
                self._muxer = self._format.muxer(self._file, track, round(1e9 / self._fps))
            end = self._file.tell()
            try:
                self._muxer.append(packets)
            except OSError:
                self._give_up(end)
                raise

    def _give_up(self, end: int) -> None:
        """Truncate the file to whole segments."""
        file, self._file, self._muxer = self._file, None, None
        assert file is not None
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            os.truncate(self._path, end)

    def close(self) -> None:
        """Write what players need for seeking."""
        try:
            if self._pending and self._encoder is not None:
                self._end_segment(self._encoder)
            muxer, self._muxer = self._muxer, None
            with failing(self._path):
                if muxer is not None:
                    muxer.close()
        finally:
            if self._encoder is not None:
                self._encoder.close()
            file, self._file = self._file, None
            if file is not None:
                with failing(self._path):
                    file.close()
