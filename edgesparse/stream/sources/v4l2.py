"""What a V4L2 camera offers, asked of the kernel, and which of it to take.

Numbers and structures are those of linux/videodev2.h; the same on x86-64 and aarch64."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgesparse.errors import CameraUnavailable

Size = tuple[int, int]
"""Width and height in pixels."""

RAW = ("YUYV", "UYVY", "YVYU", "NV12", "NV21", "YU12", "YV12", "BGR3", "RGB3", "GREY")
CODED = ("MJPG", "JPEG")
"""Formats that OpenCV turns into BGR."""

USUAL_SIZE, USUAL_FPS = (1280, 720), 30.0
"""What is asked for where nothing is said."""

_CAPTURE, _DISCRETE = 1, 1
_CAPABILITY = struct.Struct("=16s32s32sIII12x")
_FORMAT = struct.Struct("=III32sI16x")
_FRAME_SIZE = struct.Struct("=III6I8x")
_INTERVAL = struct.Struct("=IIIII6I8x")


def _iowr(number: int, layout: struct.Struct) -> int:
    return 3 << 30 | layout.size << 16 | ord("V") << 8 | number


QUERYCAP = 2 << 30 | _CAPABILITY.size << 16 | ord("V") << 8
ENUM_FMT = _iowr(2, _FORMAT)
ENUM_FRAMESIZES = _iowr(74, _FRAME_SIZE)
ENUM_FRAMEINTERVALS = _iowr(75, _INTERVAL)


@dataclass(frozen=True)
class Mode:
    """One way a camera can send images; `fps`: the most at that size in that format, 0 where it does not say."""

    fourcc: str
    width: int
    height: int
    fps: float

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.fourcc} at {self.fps:g}"


def offered(device: Path, wanted: Size = USUAL_SIZE) -> list[Mode]:
    """The modes of a camera that OpenCV can read. Of a range of sizes the one next to `wanted` is listed.

    Raises CameraUnavailable for what is no camera, as the second device of many USB cameras, which sends no images.
    """
    file = -1
    try:
        file = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        *_, capabilities, device_capabilities = _CAPABILITY.unpack(_ask(file, QUERYCAP, bytes(_CAPABILITY.size)))
        # Bit 31 tells that the device has its own.
        if not (device_capabilities if capabilities >> 31 else capabilities) & _CAPTURE:
            raise CameraUnavailable(f"{device} sends no images; {found_cameras()}")
        return [mode for fourcc in _formats(file) for mode in _modes(file, fourcc, wanted)]
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise CameraUnavailable(f"cannot open {device}: it is no camera; {found_cameras()}") from error
        raise CameraUnavailable(f"cannot open {device}: {error.strerror}") from error
    finally:
        if file >= 0:
            os.close(file)


def _ask(file: int, request: int, argument: bytes) -> bytes:
    return fcntl.ioctl(file, request, argument)


def _listed(file: int, request: int, layout: struct.Struct, *rest: int) -> Iterator[tuple[int | bytes, ...]]:
    """What the kernel says for 0, 1, 2 ... until it has no more."""
    index = 0
    while True:
        asked = struct.pack(f"={1 + len(rest)}I", index, *rest).ljust(layout.size, b"\0")
        try:
            yield layout.unpack(_ask(file, request, asked))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):
                return
            raise
        index += 1


def _formats(file: int) -> list[str]:
    found = [_fourcc(int(row[4])) for row in _listed(file, ENUM_FMT, _FORMAT, _CAPTURE)]
    return [fourcc for fourcc in found if fourcc in RAW + CODED]


def _fourcc(number: int) -> str:
    return struct.pack("=I", number & 0x7FFFFFFF).decode("latin-1")


def _number(fourcc: str) -> int:
    return int(struct.unpack("=I", fourcc.encode("latin-1"))[0])


def _modes(file: int, fourcc: str, wanted: Size) -> Iterator[Mode]:
    for row in _listed(file, ENUM_FRAMESIZES, _FRAME_SIZE, _number(fourcc)):
        kind, (a, b, c, d, e, f) = row[2], map(int, row[3:9])
        if kind == _DISCRETE:
            width, height = a, b
        else:  # from, to, step
            width, height = _nearest(wanted[0], a, b, c), _nearest(wanted[1], d, e, f)
        yield Mode(fourcc, width, height, _most_fps(file, fourcc, width, height))


def _nearest(wanted: int, least: int, most: int, step: int) -> int:
    return min(max(wanted, least), most) // max(1, step) * max(1, step)


def _most_fps(file: int, fourcc: str, width: int, height: int) -> float:
    rates = [0.0]
    for row in _listed(file, ENUM_FRAMEINTERVALS, _INTERVAL, _number(fourcc), width, height):
        seconds, parts = int(row[5]), int(row[6])  # of a range, the shortest
        if seconds:
            rates.append(parts / seconds)
    return max(rates)


def choose(modes: Iterable[Mode], size: Size | None, fps: float | None) -> Mode | None:
    """The mode next to what is asked for: the size, or else the smallest that holds it, or else the largest; then the
    rate; then raw images rather than coded ones, which cost time and detail. So a format that is coded is taken where
    a raw one would be too slow, as over USB 2. None where there is none."""
    (width, height), rate = size or USUAL_SIZE, fps or USUAL_FPS

    def distance(mode: Mode) -> tuple[bool, int, float, bool]:
        too_small = mode.width < width or mode.height < height
        missing = max(0.0, rate - mode.fps) if mode.fps else 0.0
        return too_small, abs(mode.width * mode.height - width * height), round(missing), mode.fourcc in CODED

    return min(modes, key=distance, default=None)


def found_cameras() -> str:
    """`found: /dev/video0 (HD Webcam)`, with the names that the kernel gives, and the stable ones by id."""
    devices = sorted(Path("/dev").glob("video*"), key=lambda path: (len(path.name), path.name))
    stable = sorted(Path("/dev/v4l/by-id").glob("*"))
    names = [f"{device}{_named(device)}" for device in devices] + [str(path) for path in stable]
    return f"found: {', '.join(names) or 'none'}"


def _named(device: Path) -> str:
    try:
        return f" ({Path(f'/sys/class/video4linux/{device.name}/name').read_text().strip()})"
    except OSError:
        return ""
