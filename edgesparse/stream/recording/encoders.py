"""Encoders of recordings: images in, packets out, about a second at a time."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import cv2

from edgesparse.errors import SinkError
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.frames import Image
from edgesparse.stream.recording.matroska import read_packets
from edgesparse.stream.recording.packets import Track


class Encoder(ABC):
    """Encodes images of one size, BGR uint8 [H, W, 3], in segments that start with a key frame."""

    @abstractmethod
    def add(self, image: Image) -> None:
        """Encode the next image, starting a segment if necessary. Raises SinkError."""

    @abstractmethod
    def finish(self) -> tuple[Track, list[tuple[bytes, bool]]]:
        """End the segment. Returns its track, and each packet with whether it is a key frame. Raises SinkError."""

    @abstractmethod
    def close(self) -> None:
        """Drop an unfinished segment, and free everything."""


class Vp8Encoder(Encoder):
    """VP8 by FFmpeg, through cv2.VideoWriter.

    OpenCV neither flushes its output nor accepts timestamps, and its MP4 files cannot be read until they are closed, so
    each segment is a temporary Matroska file from which the packets are taken."""

    def __init__(self, fps: float) -> None:
        self._fourcc, self._fps = cv2.VideoWriter.fourcc(*"VP80"), fps
        self._folder = tempfile.TemporaryDirectory(prefix="edgesparse-video-")
        self._file = Path(self._folder.name) / "segment.mkv"
        self._writer: cv2.VideoWriter | None = None

    def add(self, image: Image) -> None:
        if self._writer is None:
            prepare_opencv()
            height, width = image.shape[:2]
            self._writer = cv2.VideoWriter(str(self._file), cv2.CAP_FFMPEG, self._fourcc, self._fps, (width, height))
            if not self._writer.isOpened():
                raise SinkError(f"this OpenCV has no video encoder for {width}x{height} images")
        self._writer.write(image)

    def finish(self) -> tuple[Track, list[tuple[bytes, bool]]]:
        assert self._writer is not None
        self._writer.release()
        self._writer = None
        try:
            return read_packets(self._file.read_bytes())
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise SinkError(f"encoding a video failed in {self._folder.name}: {error}") from error

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._folder.cleanup()


class JpegEncoder(Encoder):
    """Motion JPEG."""

    def __init__(self) -> None:
        self._packets: list[tuple[bytes, bool]] = []
        self._track = Track(0, 0)

    def add(self, image: Image) -> None:
        encoded, data = cv2.imencode(".jpg", image)
        if not encoded:
            raise SinkError(f"cannot encode an image of {image.shape[1]}x{image.shape[0]} as JPEG")
        self._track = Track(image.shape[1], image.shape[0], "mjpeg")
        self._packets.append((data.tobytes(), True))

    def finish(self) -> tuple[Track, list[tuple[bytes, bool]]]:
        packets, self._packets = self._packets, []
        return self._track, packets

    def close(self) -> None:
        self._packets = []
