"""V4L2 cameras: the modes that the kernel reports, and the choice of one.

Numbers and structures are those of linux/videodev2.h, the same on x86-64 and aarch64."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from edgesparse.errors import CameraUnavailable
from edgesparse.runtime.opencv import prepare_opencv

log = logging.getLogger("edgesparse.stream")

Size = tuple[int, int]
"""Width and height in pixels."""

# Not YVYU: OpenCV 5.0 raises when it reads one.
RAW = ("YUYV", "UYVY", "NV12", "NV21", "YU12", "YV12", "BGR3", "RGB3", "GREY")
CODED = ("MJPG", "JPEG")
"""Formats that OpenCV converts to BGR."""

USUAL_SIZE, USUAL_FPS = (1280, 720), 30.0
"""Size and rate requested from a camera unless its settings say otherwise."""

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
    """A format and size in which a camera can send images. `fps`: the highest rate in that mode; 0 if unknown."""

    fourcc: str
    width: int
    height: int
    fps: float

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.fourcc} at {self.fps:g}"


def modes_of(device: Path, size: Size = USUAL_SIZE) -> list[Mode]:
    """Return the camera's modes that OpenCV can read. Of a range of sizes, the one closest to `size` is listed.

    Raises CameraUnavailable for a device that is not a camera, such as the metadata device of many USB cameras.
    """
    file = -1
    try:
        file = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        *_, capabilities, device_capabilities = _CAPABILITY.unpack(_ioctl(file, QUERYCAP, bytes(_CAPABILITY.size)))
        # Bit 31: the device has capabilities of its own.
        if not (device_capabilities if capabilities >> 31 else capabilities) & _CAPTURE:
            raise CameraUnavailable(f"{device} sends no images; {found_cameras()}")
        return [mode for fourcc in _formats(file) for mode in _modes(file, fourcc, size)]
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise CameraUnavailable(f"cannot open {device}: it is not a camera; {found_cameras()}") from error
        raise CameraUnavailable(f"cannot open {device}: {error.strerror}") from error
    finally:
        if file >= 0:
            os.close(file)


def _ioctl(file: int, request: int, argument: bytes) -> bytes:
    return fcntl.ioctl(file, request, argument)


def _enumerate(file: int, request: int, layout: struct.Struct, *rest: int) -> Iterator[tuple[int | bytes, ...]]:
    """Yield the kernel's answers for index 0, 1, 2 ... until there are no more."""
    index = 0
    while True:
        query = struct.pack(f"={1 + len(rest)}I", index, *rest).ljust(layout.size, b"\0")
        try:
            yield layout.unpack(_ioctl(file, request, query))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):
                return
            raise
        index += 1


def _formats(file: int) -> list[str]:
    formats = [_fourcc(int(row[4])) for row in _enumerate(file, ENUM_FMT, _FORMAT, _CAPTURE)]
    return [fourcc for fourcc in formats if fourcc in RAW + CODED]


def _fourcc(number: int) -> str:
    return struct.pack("=I", number & 0x7FFFFFFF).decode("latin-1")


def _number(fourcc: str) -> int:
    return int(struct.unpack("=I", fourcc.encode("latin-1"))[0])


def _modes(file: int, fourcc: str, size: Size) -> Iterator[Mode]:
    for row in _enumerate(file, ENUM_FRAMESIZES, _FRAME_SIZE, _number(fourcc)):
        kind, (a, b, c, d, e, f) = row[2], map(int, row[3:9])
        if kind == _DISCRETE:
            width, height = a, b
        else:  # minimum, maximum, step
            width, height = _closest(size[0], a, b, c), _closest(size[1], d, e, f)
        yield Mode(fourcc, width, height, _highest_fps(file, fourcc, width, height))


def _closest(side: int, least: int, most: int, step: int) -> int:
    return min(max(side, least), most) // max(1, step) * max(1, step)


def _highest_fps(file: int, fourcc: str, width: int, height: int) -> float:
    rates = [0.0]
    for row in _enumerate(file, ENUM_FRAMEINTERVALS, _INTERVAL, _number(fourcc), width, height):
        seconds, parts = int(row[5]), int(row[6])  # of a range, the shortest interval
        if seconds:
            rates.append(parts / seconds)
    return max(rates)


def choose(modes: Iterable[Mode], size: Size | None, fps: float | None) -> Mode | None:
    """Return the mode closest to the request: the size, else the smallest that contains it, else the largest; then the
    rate; then raw rather than compressed images, which cost time and detail. So a compressed format is chosen if raw
    images would be too slow, as over USB 2. None if there are no modes.
    """
    (width, height), rate = size or USUAL_SIZE, fps or USUAL_FPS

    def distance(mode: Mode) -> tuple[bool, int, float, bool]:
        too_small = mode.width < width or mode.height < height
        missing = max(0.0, rate - mode.fps) if mode.fps else 0.0
        return too_small, abs(mode.width * mode.height - width * height), round(missing), mode.fourcc in CODED

    return min(modes, key=distance, default=None)


def found_cameras() -> str:
    """Return `found: /dev/video0 (HD Webcam)`, with the kernel's names and the stable paths by id."""
    devices = sorted(Path("/dev").glob("video*"), key=lambda path: (len(path.name), path.name))
    stable = sorted(Path("/dev/v4l/by-id").glob("*"))
    names = [f"{device}{_card_name(device)}" for device in devices] + [str(path) for path in stable]
    return f"found: {', '.join(names) or 'none'}"


def _card_name(device: Path) -> str:
    try:
        return f" ({Path(f'/sys/class/video4linux/{device.name}/name').read_text().strip()})"
    except OSError:
        return ""


def open_camera(device: Path, size: Size | None, fps: float | None) -> cv2.VideoCapture:
    """Open a camera in the mode closest to the request, and log the mode, as a warning if it differs. Raises
    CameraUnavailable.
    """
    prepare_opencv()
    if not device.exists():
        number = re.search(r"^/dev/video(\d+)$", str(device))
        camera = f"camera {number[1]}" if number else "such camera"
        raise CameraUnavailable(f"no {camera}: {device} does not exist; {found_cameras()}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise CameraUnavailable(
            f"no permission to open {device}: add the user to its group, sudo usermod -aG {device.group()} $USER"
        )
    mode = choose(modes_of(device, size or USUAL_SIZE), size, fps)
    capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraUnavailable(
            f"cannot open {device}: is it a camera, and free? 'fuser -v {device}' lists the processes that use it"
        )
    if mode is not None:
        _set_mode(capture, mode, fps or USUAL_FPS)
    _log_mode(device, capture, size, fps)
    return capture


def _set_mode(capture: cv2.VideoCapture, mode: Mode, fps: float) -> None:
    """Set the format first, since sizes and rates depend on it; then the rate, which the driver rounds to its own."""
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*mode.fourcc))
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, mode.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, mode.height)
    if mode.fps:
        capture.set(cv2.CAP_PROP_FPS, min(fps, mode.fps))


def _log_mode(device: Path, capture: cv2.VideoCapture, size: Size | None, fps: float | None) -> None:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    fourcc = "".join(chr(code >> 8 * i & 0xFF) for i in range(4))
    actual = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    mode = Mode(fourcc, *actual, capture.get(cv2.CAP_PROP_FPS))
    requested = [f"{size[0]}x{size[1]}"] if size and size != actual else []
    requested += [f"{fps:g} frames per second"] if fps and abs(mode.fps - fps) > 0.5 else []
    if requested:
        log.warning("%s delivers %s, requested %s", device, mode, " and ".join(requested))
    else:
        log.info("%s delivers %s", device, mode)
