"""Parsing of the kernel's answers, and choice of a mode. No real camera: ioctl is replaced."""

from __future__ import annotations

import errno
import logging
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.errors import CameraUnavailable
from edgesparse.stream.sources import v4l2
from edgesparse.stream.sources.v4l2 import Mode, choose, modes_of

# The values of linux/videodev2.h on a 64-bit machine, from the C preprocessor.
VIDIOC_QUERYCAP, VIDIOC_ENUM_FMT = 0x80685600, 0xC0405602
VIDIOC_ENUM_FRAMESIZES, VIDIOC_ENUM_FRAMEINTERVALS = 0xC02C564A, 0xC034564B

Rates = tuple[int, ...]


@dataclass
class Kernel:
    """A driver's answers: for each format, either sizes with their rates, or a range (min, max, step) for width and
    height."""

    formats: dict[str, dict[tuple[int, int], Rates] | tuple[int, int, int]]
    capabilities: int = 0x84A00001
    device_capabilities: int = 0x04200001
    requests: list[int] = field(default_factory=list)

    def ioctl(self, file: int, request: int, argument: bytes) -> bytes:
        self.requests.append(request)
        if request == VIDIOC_QUERYCAP:
            assert len(argument) == 104
            names = (b"uvcvideo", b"HD Webcam", b"usb-1")
            return struct.pack("=16s32s32sIII12x", *names, 0x60100, self.capabilities, self.device_capabilities)
        index, *rest = struct.unpack_from("=3I", argument)
        if request == VIDIOC_ENUM_FMT:
            assert len(argument) == 64 and rest[0] == 1
            name = list(self.formats)[index] if index < len(self.formats) else self._end()
            return struct.pack("=III32s4sI12x", index, 1, 0, b"", name.encode(), 0)
        fourcc = struct.pack("=I", rest[0]).decode()
        offers = self.formats[fourcc]
        if request == VIDIOC_ENUM_FRAMESIZES:
            assert len(argument) == 44
            if isinstance(offers, tuple):
                return struct.pack("=III6I8x", index, rest[0], 3, *offers, *offers) if index == 0 else self._end()
            size = list(offers)[index] if index < len(offers) else self._end()
            return struct.pack("=III2I24x", index, rest[0], 1, *size)
        assert request == VIDIOC_ENUM_FRAMEINTERVALS and len(argument) == 52
        _, _, width, height = struct.unpack_from("=4I", argument)
        if isinstance(offers, tuple):  # from a sixtieth of a second to a second
            if index:
                self._end()
            return struct.pack("=IIIII6I8x", index, rest[0], width, height, 3, 1, 60, 1, 1, 1, 1)
        rates = offers[width, height]
        rate = rates[index] if index < len(rates) else self._end()
        return struct.pack("=IIIII2I24x", index, rest[0], width, height, 1, 1, rate)

    def _end(self) -> NoReturn:
        raise OSError(errno.EINVAL, "Invalid argument")


# A common USB 2 camera: raw frame rates are limited by the bus.
WEBCAM: dict[str, object] = {
    "MJPG": {(1920, 1080): (30, 15), (1280, 720): (30,), (640, 480): (60, 30)},
    "YUYV": {(1920, 1080): (5,), (1280, 720): (10,), (640, 480): (30, 15)},
    "H264": {(1920, 1080): (30,)},
}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "video0"
    path.touch()
    return path


def install(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> Kernel:
    monkeypatch.setattr(v4l2.fcntl, "ioctl", kernel.ioctl)
    return kernel


def test_requests_have_the_numbers_of_the_kernel_s_header() -> None:
    assert (v4l2.QUERYCAP, v4l2.ENUM_FMT) == (VIDIOC_QUERYCAP, VIDIOC_ENUM_FMT)
    assert (v4l2.ENUM_FRAMESIZES, v4l2.ENUM_FRAMEINTERVALS) == (VIDIOC_ENUM_FRAMESIZES, VIDIOC_ENUM_FRAMEINTERVALS)


def test_the_modes_of_a_camera(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    install(monkeypatch, Kernel(WEBCAM))  # type: ignore[arg-type]
    assert modes_of(device) == [
        Mode("MJPG", 1920, 1080, 30),
        Mode("MJPG", 1280, 720, 30),
        Mode("MJPG", 640, 480, 60),
        Mode("YUYV", 1920, 1080, 5),
        Mode("YUYV", 1280, 720, 10),
        Mode("YUYV", 640, 480, 30),
    ]


def test_the_closest_size_of_a_range_is_listed(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    install(monkeypatch, Kernel({"NV12": (32, 1024, 16)}))
    assert modes_of(device, (650, 4000)) == [Mode("NV12", 640, 1024, 60)]


@pytest.mark.parametrize(
    ("size", "fps", "mode"),
    [
        (None, None, "1280x720 MJPG at 30"),
        ((640, 480), None, "640x480 YUYV at 30"),
        ((640, 480), 60, "640x480 MJPG at 60"),
        ((1280, 720), 10, "1280x720 YUYV at 10"),
        ((1920, 1080), 30, "1920x1080 MJPG at 30"),
        ((1920, 1080), 5, "1920x1080 YUYV at 5"),
        ((800, 600), 30, "1280x720 MJPG at 30"),
        ((3840, 2160), 30, "1920x1080 MJPG at 30"),
    ],
)
def test_the_mode_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch, device: Path, size: tuple[int, int] | None, fps: float | None, mode: str
) -> None:
    install(monkeypatch, Kernel(WEBCAM))  # type: ignore[arg-type]
    assert str(choose(modes_of(device), size, fps)) == mode


modes = st.builds(
    Mode, st.sampled_from(["YUYV", "MJPG"]), st.integers(16, 4000), st.integers(16, 4000), st.floats(1, 120)
)


@given(st.lists(modes, min_size=1), st.tuples(st.integers(16, 4000), st.integers(16, 4000)), st.floats(1, 120))
def test_the_smallest_mode_that_contains_the_size_is_chosen(
    offers: list[Mode], size: tuple[int, int], fps: float
) -> None:
    chosen = choose(offers, size, fps)
    assert chosen is not None and chosen in offers
    containing = [mode for mode in offers if mode.width >= size[0] and mode.height >= size[1]]
    if containing:
        assert chosen in containing
        assert chosen.width * chosen.height == min(mode.width * mode.height for mode in containing)


def test_a_device_that_sends_no_images_is_refused(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    """The metadata device of a USB camera has the camera's capabilities as well as its own."""
    install(monkeypatch, Kernel({}, device_capabilities=0x04A00000))
    with pytest.raises(CameraUnavailable, match="video0 sends no images; found: "):
        modes_of(device)


def test_another_device_is_refused() -> None:
    with pytest.raises(CameraUnavailable, match="cannot open /dev/null: it is not a camera; found: "):
        modes_of(Path("/dev/null"))


def test_a_camera_that_disappears_is_named(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    def absent(file: int, request: int, argument: bytes) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(v4l2.fcntl, "ioctl", absent)
    with pytest.raises(CameraUnavailable, match=r"cannot open .*video0: No such device"):
        modes_of(device)


class Opened:
    """A capture that keeps the properties that are set, as far as it supports them."""

    def __init__(self, most: float = 30.0) -> None:
        self.properties: dict[int, float] = {}
        self._most = most

    def isOpened(self) -> bool:
        return True

    def set(self, prop: int, value: float) -> None:
        self.properties[prop] = min(value, self._most) if prop == v4l2.cv2.CAP_PROP_FPS else value

    def get(self, prop: int) -> float:
        return self.properties.get(prop, 0.0)


@pytest.mark.parametrize(
    ("size", "fps", "message"),
    [
        ((640, 480), 30, "delivers 640x480 YUYV at 30"),
        ((640, 480), 10, "delivers 640x480 YUYV at 10"),
        ((800, 600), 60, "delivers 1280x720 MJPG at 30, requested 800x600 and 60 frames per second"),
        (None, None, "delivers 1280x720 MJPG at 30"),
    ],
)
def test_another_mode_than_requested_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    device: Path,
    caplog: pytest.LogCaptureFixture,
    size: tuple[int, int] | None,
    fps: float | None,
    message: str,
) -> None:
    caplog.set_level(logging.INFO, "edgesparse.stream")
    install(monkeypatch, Kernel(WEBCAM))  # type: ignore[arg-type]
    monkeypatch.setattr(v4l2.cv2, "VideoCapture", lambda *_: Opened())
    v4l2.open_camera(device, size, fps)
    assert caplog.messages == [f"{device} {message}"]
    assert [record.levelname for record in caplog.records] == ["WARNING" if "requested" in message else "INFO"]


def test_a_camera_is_opened_by_its_stable_id(monkeypatch: pytest.MonkeyPatch, device: Path) -> None:
    link = device.with_name("usb-HD_Webcam-video-index0")
    link.symlink_to(device)
    install(monkeypatch, Kernel(WEBCAM))  # type: ignore[arg-type]
    opened = []
    monkeypatch.setattr(v4l2.cv2, "VideoCapture", lambda name, *_: opened.append(name) or Opened())
    v4l2.open_camera(link, None, None)
    assert opened == [str(link)]


def test_no_format_is_chosen_that_opencv_cannot_read() -> None:
    """OpenCV 5.0 read each of the others from the kernel's driver vivid, and raised cv2.error for YVYU."""
    assert "YVYU" not in v4l2.RAW + v4l2.CODED
