"""Opening things through OpenCV: video files, cameras, network streams; quietly and with time limits."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cv2

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.stream.frames import Image
from edgesparse.wording import redact

OPEN_SECONDS = 5
READ_SECONDS = 1.5
"""Without a frame a live source is away after that long; three frames' time where it gives fewer than two a second."""

Size = tuple[int, int]
"""Width and height in pixels."""


class Capture(Protocol):
    """The part of cv2.VideoCapture that sources use."""

    def grab(self) -> bool:
        """Wait for the next frame; False when there is none."""

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        """Decode it into `image` where that has the frame's size, else into a new array; return what was used."""

    def get(self, propId: int, /) -> float:
        """A property of OpenCV's; 0 when unknown."""

    def release(self) -> None: ...


Opener = Callable[[], Capture]


@functools.cache
def prepare_opencv() -> None:
    """Keep OpenCV's and FFmpeg's own lines off standard error, and V4L2 from waiting ten seconds for a frame; the
    environment's own settings win."""
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    set_level = getattr(logging, "setLogLevel", None) or getattr(cv2, "setLogLevel", None)
    if set_level is not None:
        set_level(0)


def frame_rate(capture: Capture) -> float:
    """Nominal frames a second; 0 where it gives none or nonsense."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= 1000 else 0.0


def open_video(path: Path) -> cv2.VideoCapture:
    prepare_opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise SourceError(
            f"cannot read {path}: neither a picture nor a video that OpenCV can decode, or its end is missing"
        )
    return capture


RTSP_OPTIONS = "rtsp_transport;tcp|fpsprobesize;0"
"""FFmpeg's: TCP, and no waiting for twenty frames to find out the rate."""


def open_url(url: str, fps: float | None = None) -> cv2.VideoCapture:
    """Through FFmpeg, with RTSP_OPTIONS unless OPENCV_FFMPEG_CAPTURE_OPTIONS says otherwise. `fps`: what it is known to
    send; one that sends less than two frames a second is given more time for the next."""
    prepare_opencv()
    if url.lower().startswith("rtsp"):
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", RTSP_OPTIONS)
    read_seconds = max(READ_SECONDS, 3 / fps if fps else 0)
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        OPEN_SECONDS * 1000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(read_seconds * 1000),
    ]
    # Each thread of FFmpeg's more holds a frame back.
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise CameraUnavailable(f"cannot open {redact(url)}: is the address right and the camera on?")
    return capture


def open_camera(device: Path, size: Size | None, fps: float | None) -> cv2.VideoCapture:
    prepare_opencv()
    if not device.exists():
        found = ", ".join(sorted(map(str, device.parent.glob("video*")))) or "none"
        number = re.search(r"\d+$", device.name)
        camera = f"camera {number[0]}" if number else "such camera"
        raise CameraUnavailable(f"no {camera}: {device} does not exist; found: {found}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise CameraUnavailable(
            f"no permission to open {device}: add the user to its group, sudo usermod -aG {device.group()} $USER"
        )
    capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraUnavailable(f"cannot open {device}: is it a camera, and free? fuser -v {device} names its user")
    _ask(capture, size, fps)
    return capture


def _ask(capture: cv2.VideoCapture, size: Size | None, fps: float | None) -> None:
    """What the camera can't do it answers with the nearest it can."""
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)


def open_csi(sensor: int, size: Size | None, fps: float | None) -> cv2.VideoCapture:
    """A camera on a Jetson's CSI port, through NVIDIA's camera daemon. Written from its documentation; not yet run."""
    prepare_opencv()
    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        raise CameraUnavailable(
            f"csi://{sensor} needs an OpenCV with GStreamer and this one has none: use JetPack's own, "
            "in an environment made with --system-site-packages and without pip's opencv-python"
        )
    capture = cv2.VideoCapture(csi_pipeline(sensor, size or (1280, 720), fps or 30), cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise CameraUnavailable(
            f"cannot open csi://{sensor}: is the camera connected, and nvargus-daemon running? "
            "systemctl status nvargus-daemon"
        )
    return capture


def csi_pipeline(sensor: int, size: Size, fps: float) -> str:
    wanted = f"width={size[0]},height={size[1]},framerate={round(fps)}/1,format=NV12"
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),{wanted} ! nvvidconv ! "
        "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )
