"""Opening things through OpenCV: video files, cameras, network streams; quietly and with time limits."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cv2

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.runtime.opencv import prepare_opencv
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.v4l2 import USUAL_SIZE, Mode, Size, choose, found_cameras, offered
from edgesparse.wording import redact

log = logging.getLogger("edgesparse.stream")

OPEN_SECONDS = 5
READ_SECONDS = 1.25
"""Without a frame a live source is away after that long, or after three frames' time where that is longer."""


class Capture(Protocol):
    """The part of cv2.VideoCapture that sources use."""

    def grab(self) -> bool:
        """Wait for the next frame; False when there is none. Raises SourceError where it can say why."""

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        """Decode it into `image` where that has the frame's size, else into a new array; return what was used."""

    def get(self, propId: int, /) -> float:
        """A property of OpenCV's; 0 when unknown."""

    def release(self) -> None: ...


Opener = Callable[[], Capture]


def frame_rate(capture: Capture) -> float:
    """Nominal frames a second; 0 where it gives none or nonsense."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= 1000 else 0.0


def read_seconds(fps: float | None) -> float:
    """How long to wait for the next frame of something live that gives `fps` frames a second, 0 or None if unknown."""
    return max(READ_SECONDS, 3 / fps if fps else 0.0)


def open_video(path: Path) -> cv2.VideoCapture:
    prepare_opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise SourceError(
            f"cannot read {path}: neither an image nor a video that OpenCV can decode, or its end is missing"
        )
    return capture


OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
RTSP_OPTIONS = ("rtsp_transport;tcp|analyzeduration;100000", "rtsp_transport;tcp|fpsprobesize;0")
"""FFmpeg's, over TCP: a look at a tenth of a second, enough where the camera describes its stream beforehand; if that
was too short, at all it takes to know the image's size."""


def open_url(url: str, fps: float | None = None) -> cv2.VideoCapture:
    """Through FFmpeg, with RTSP_OPTIONS unless the environment has its own. `fps`: what it is known to send; one that
    sends few frames a second is given more time for the next."""
    prepare_opencv()
    own = os.environ.get(OPTIONS)
    if own is not None or not url.lower().startswith("rtsp"):
        capture = _through_ffmpeg(url, fps)
    else:
        capture = _over_rtsp(url, fps)
    if not capture.isOpened():
        raise CameraUnavailable(f"cannot open {redact(url)}: is the address right and the camera on?")
    return capture


def _over_rtsp(url: str, fps: float | None) -> cv2.VideoCapture:
    try:
        for options in RTSP_OPTIONS:
            os.environ[OPTIONS] = options
            capture = _through_ffmpeg(url, fps)
            if capture.isOpened():
                break
        return capture
    finally:
        del os.environ[OPTIONS]


def _through_ffmpeg(url: str, fps: float | None) -> cv2.VideoCapture:
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_SECONDS * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    # Each thread of FFmpeg's more holds a frame back.
    rest = (int(read_seconds(fps) * 1000), cv2.CAP_PROP_N_THREADS, 1)
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, *rest])


def open_camera(device: Path, size: Size | None, fps: float | None) -> cv2.VideoCapture:
    """A V4L2 camera in the mode that is next to what is asked for; what it gives instead is said."""
    prepare_opencv()
    if not device.exists():
        number = re.search(r"^/dev/video(\d+)$", str(device))
        camera = f"camera {number[1]}" if number else "such camera"
        raise CameraUnavailable(f"no {camera}: {device} does not exist; {found_cameras()}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise CameraUnavailable(
            f"no permission to open {device}: add the user to its group, sudo usermod -aG {device.group()} $USER"
        )
    mode = choose(offered(device, size or USUAL_SIZE), size, fps)
    capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraUnavailable(f"cannot open {device}: is it a camera, and free? fuser -v {device} names its user")
    if mode is not None:
        _set(capture, mode)
    _say(device, capture, size, fps)
    return capture


def _set(capture: cv2.VideoCapture, mode: Mode) -> None:
    """The format first: sizes and rates are the format's."""
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*mode.fourcc))
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, mode.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, mode.height)
    if mode.fps:
        capture.set(cv2.CAP_PROP_FPS, mode.fps)


def _say(device: Path, capture: cv2.VideoCapture, size: Size | None, fps: float | None) -> None:
    """What it gives; as a warning where another was asked for."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    fourcc = "".join(chr(code >> 8 * i & 0xFF) for i in range(4))
    given = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    mode = Mode(fourcc, *given, capture.get(cv2.CAP_PROP_FPS))
    asked = [f"{size[0]}x{size[1]}"] if size and size != given else []
    asked += [f"{fps:g} frames a second"] if fps and abs(mode.fps - fps) > 0.5 else []
    if asked:
        log.warning("%s gives %s, asked for %s", device, mode, " and ".join(asked))
    else:
        log.info("%s gives %s", device, mode)
