"""The demo scene as a camera."""

from __future__ import annotations

import time

import cv2

from edgesparse.demo.scene import Scene
from edgesparse.stream.frames import Image
from edgesparse.stream.sources.v4l2 import Size

FPS = 30.0
SIZE = (640, 480)


class DemoCapture:
    """A Capture that renders the scene at `fps` frames per second. `size`: width and height."""

    def __init__(self, seed: int, size: Size, fps: float) -> None:
        self._scene = Scene(seed, height=size[1], width=size[0])
        self._fps = fps
        self._due = time.monotonic()

    def grab(self) -> bool:
        self._due = max(self._due + 1 / self._fps, time.monotonic() - 1.0)
        time.sleep(max(0.0, self._due - time.monotonic()))
        return True

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        return True, self._scene.render(out=image)[0]

    def get(self, propId: int, /) -> float:
        return self._fps if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass
