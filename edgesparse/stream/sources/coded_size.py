"""The size of encoded images. OpenCV silently scales every frame of a video to the size of the first."""

from __future__ import annotations

import logging
from collections.abc import Callable

import cv2
import numpy as np

from edgesparse.errors import ImageError
from edgesparse.runtime.images import decode_image, inspect_jpeg
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.v4l2 import Size

log = logging.getLogger("edgesparse.stream")

SCALES = int(cv2.__version__.partition(".")[0]) >= 5
"""Whether OpenCV scales images to the first size; older versions blend them with the previous image."""
_NO_IMAGE: Image = np.empty((0, 0, 3), np.uint8)

CHANGEABLE = frozenset(".264 .avi .flv .h264 .m2ts .mjpeg .mjpg .mkv .mpeg .mpg .mts .ts .vob".split())  # noqa: SIM905
"""Suffixes of containers in which the image size may change; others have the size in their header."""


class TrueSizeVideo:
    """A Capture of a video file that delivers each image in its encoded size.

    A second capture reads the packets without decoding them. After a change of size, JPEGs are decoded from these.
    Images of other codecs are scaled back; OpenCV 4 does not decode them correctly, so there they are dropped. If
    frames are lost at a change of size, the same number of images after it may still have the old size.
    """

    def __init__(self, video: cv2.VideoCapture, name: str) -> None:
        self._video, self._name = video, name
        self._packets = cv2.VideoCapture(name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        self._size_of = SIZE_OF.get(int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").lower(), _unknown)
        self._packet = b""
        self._decoded: Image | None = None
        self._first: Size | None = None
        self._size: Size | None = None
        self._warned = False

    def grab(self) -> bool:
        if self._packets.grab():
            self._packet = self._packets.retrieve()[1].tobytes()
            self._size = self._size_of(self._packet) or self._size
            self._first = self._first or self._size
        return self._video.grab()

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        if self._size is None or self._size == self._first:
            return self._video.retrieve(image)
        if self._size_of is jpeg_size:
            return self._decode_jpeg()
        if not SCALES:
            return self._drop()
        decoded, self._decoded = self._video.retrieve(self._decoded)
        if not decoded:
            return False, self._decoded
        fits = image is not None and image.shape[1::-1] == self._size
        return True, cv2.resize(self._decoded, self._size, dst=image if fits else None)

    def _decode_jpeg(self) -> tuple[bool, Image]:
        try:
            return True, decode_image(self._packet)
        except ImageError:
            return False, _NO_IMAGE

    def _drop(self) -> tuple[bool, Image]:
        if not self._warned and self._size is not None:
            self._warned = True
            size, version = "{}x{}".format(*self._size), cv2.__version__
            log.warning("%s: OpenCV %s cannot decode the change to %s: dropped", self._name, version, size)
        return False, _NO_IMAGE

    def get(self, propId: int, /) -> float:
        return self._video.get(propId)

    def release(self) -> None:
        self._packets.release()
        self._video.release()


def jpeg_size(packet: bytes) -> Size | None:
    """Return width and height from a JPEG's frame header."""
    return inspect_jpeg(packet)[1] if packet.startswith(b"\xff\xd8") else None


def mpeg2_size(packet: bytes) -> Size | None:
    """Return width and height from a sequence header (ISO/IEC 13818-2, 6.2.2.1); None if the packet has none."""
    start = packet.find(b"\0\0\1\xb3")
    if start < 0 or len(packet) < start + 7:
        return None
    first, second, third = packet[start + 4 : start + 7]
    return first << 4 | second >> 4, (second & 15) << 8 | third


def h264_size(packet: bytes) -> Size | None:
    """Return width and height from a sequence parameter set (ITU-T H.264, 7.3.2.1.1); None if the packet has none, or
    one with scaling lists or a rare order of frames.
    """
    position = packet.find(b"\0\0\1")
    while position >= 0 and position + 4 < len(packet):
        if packet[position + 3] & 0x1F == 7:
            end = packet.find(b"\0\0\1", position + 4)
            return _parameter_set_size(packet[position + 4 : end if end >= 0 else len(packet)])
        position = packet.find(b"\0\0\1", position + 3)
    return None


def _unknown(packet: bytes) -> None:
    return None


SIZE_OF: dict[bytes, Callable[[bytes], Size | None]] = {
    b"mjpg": jpeg_size,
    b"mpg2": mpeg2_size,
    b"mpg1": mpeg2_size,
    **dict.fromkeys((b"h264", b"avc1", b"avc3", b"x264"), h264_size),
}
"""Functions that read the size, by the codec's FourCC."""

_HIGH_PROFILES = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))


def _parameter_set_size(parameters: bytes) -> Size | None:
    bits = _Bits(parameters.replace(b"\0\0\3", b"\0\0"))
    try:
        profile = bits.read(8)
        bits.read(16)
        bits.golomb()
        chroma = 1
        if profile in _HIGH_PROFILES:
            chroma = bits.golomb()
            bits.read(1 if chroma == 3 else 0)
            bits.golomb(), bits.golomb(), bits.read(1)
            if bits.read(1):
                return None
        bits.golomb()
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            return None
        bits.golomb(), bits.read(1)
        width, map_height = 16 * (bits.golomb() + 1), 16 * (bits.golomb() + 1)
        frames_only = bits.read(1)
        height = map_height * (2 - frames_only)
        bits.read(1 if frames_only else 2)
        if bits.read(1):
            left, right, top, bottom = (bits.golomb() for _ in range(4))
            x, y = (2, 2) if chroma == 1 else (2, 1) if chroma == 2 else (1, 1)
            width, height = width - x * (left + right), height - y * (2 - frames_only) * (top + bottom)
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


class _Bits:
    """Reads bits. Raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise ValueError("no more bits")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Read an unsigned exponential Golomb code."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
