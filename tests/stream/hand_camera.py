"""A camera that a test controls."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import numpy as np

from edgesparse.errors import CameraUnavailable

SIZE = 128


def still(level: int, size: int = SIZE) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


class Camera:
    """A read waits for the next item of `frames`: a level, an image, False for a failing read, an exception to raise,
    or an event, which stalls the read until it is set and then gives level 7."""

    def __init__(self) -> None:
        self.frames: queue.Queue[object] = queue.Queue()
        self.openings = self.released = 0
        self.absent = False

    def open(self) -> Opened:
        self.openings += 1
        if self.absent:
            raise CameraUnavailable("no camera 0")
        return Opened(self)


class Opened:
    def __init__(self, camera: Camera) -> None:
        self.camera = camera

    def grab(self) -> bool:
        self.next = self.camera.frames.get()
        if isinstance(self.next, Exception):
            raise self.next
        return self.next is not False

    def retrieve(self, image: np.ndarray | None = None) -> tuple[bool, np.ndarray]:
        if isinstance(self.next, np.ndarray):
            return True, self.next
        if image is None or image.shape != (SIZE, SIZE, 3):
            image = np.empty((SIZE, SIZE, 3), np.uint8)
        if isinstance(self.next, threading.Event):
            self.next.wait()
            self.next = 7
        image[:] = self.next
        return True, image

    def get(self, prop: int, /) -> float:
        return 30.0

    def release(self) -> None:
        self.camera.released += 1


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited a minute"
        time.sleep(0.002)
