"""The interface between sources and whatever captures images: OpenCV, GStreamer, another process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2

from edgesparse.stream.frames import Image

OPEN_SECONDS = 5
READ_SECONDS = 1.25
"""A live source is away after this many seconds without a frame, or after three frame periods if that is longer."""
KEY_FRAME_SECONDS = 60.0
"""Seconds to wait for a key frame while data arrives."""


class Capture(Protocol):
    """The part of cv2.VideoCapture that sources use."""

    def grab(self) -> bool:
        """Wait for the next frame; False if there is none. Raises SourceError if the reason is known, and
        WaitingForKeyFrame."""

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        """Decode the frame into `image` if the size matches, else into a new array. Returns the one used."""

    def get(self, propId: int, /) -> float:
        """Return a property, by OpenCV's number; 0 if unknown."""

    def release(self) -> None: ...


Opener = Callable[[], Capture]
"""Opens a capture. Raises CameraUnavailable or SourceError."""


class WaitingForKeyFrame(Exception):
    """Data arrives, but nothing can be decoded before the next key frame: call `grab` again."""


def frame_rate(capture: Capture) -> float:
    """Return the nominal frames per second; 0 if the capture reports none or an implausible number."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps <= 1000 else 0.0


def read_seconds(fps: float | None) -> float:
    """Return how many seconds to wait for a live source's next frame. `fps` is 0 or None if unknown."""
    return max(READ_SECONDS, 3 / fps if fps else 0.0)
