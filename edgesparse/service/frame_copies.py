"""Copies of single frames for work that takes longer than a frame may wait, done in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Image
from edgesparse.supervised import Supervised

log = logging.getLogger("edgesparse.service")

MAX_BYTES = 192_000_000
"""Larger frames are not copied."""
_NONE: Image = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class CopiedFrame:
    """A frame of a camera, with its detections. `image` is valid only until the call that gets it returns. `reasons`:
    those that `offer` was called with."""

    camera: str
    image: Image
    detections: Detections
    time_ns: int
    reasons: tuple[str, ...] = ()


class _Place:
    """One camera's frame between the frame loop, which copies it in, and the thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.image = _NONE
        self.shape: tuple[int, ...] = _NONE.shape
        """Shape of the last frame offered, which `image` must be allocated for."""
        self.frame: CopiedFrame | None = None


class FrameCopies:
    """`offer` is called in the frame loop's thread; `take` gets each copy in another. Release it with `close`."""

    def __init__(self, name: str, take: Callable[[CopiedFrame], None]) -> None:
        self._name, self._take = name, take
        self._places: dict[str, _Place] = {}
        self._offered = threading.Event()
        self._error, self._closed = "", False
        self._thread = Supervised(name, self._run)

    def offer(self, frame: Frame, detections: Detections, reasons: tuple[str, ...] = ()) -> bool:
        """Copy a frame, unless the camera's previous one is waiting or being worked on, or its size is new. Returns
        whether it was copied. Never waits, never allocates memory of a frame's size.
        """
        place = self._places.get(frame.source)
        if place is None:
            place = self._places.setdefault(frame.source, _Place())
        if place.frame is not None or not place.lock.acquire(blocking=False):
            return False
        try:
            place.shape = frame.image.shape
            fits = place.image.shape == place.shape
            if fits:
                np.copyto(place.image, frame.image)
                place.frame = CopiedFrame(frame.source, place.image, detections, frame.time_ns, reasons)
        finally:
            place.lock.release()
        self._offered.set()
        return fits

    def keep(self, cameras: Collection[str]) -> None:
        """Free the memory of all other cameras."""
        for name in set(self._places) - set(cameras):
            self._places.pop(name, None)

    def free(self) -> None:
        """Free the memory of all cameras; it is allocated again when a frame is offered."""
        for place in list(self._places.values()):
            with place.lock:
                place.image, place.shape, place.frame = _NONE, _NONE.shape, None

    def close(self) -> None:
        self._closed = True
        self._thread.leave()
        self._offered.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._closed:
            self._offered.wait()
            self._offered.clear()
            for place in list(self._places.values()):
                with place.lock:
                    self._work(place)

    def _work(self, place: _Place) -> None:
        if place.image.shape != place.shape and np.prod(place.shape) <= MAX_BYTES:
            place.image = np.empty(place.shape, np.uint8)
        if place.frame is None:
            return
        try:
            self._take(place.frame)
        except Exception as error:  # one frame's failure must not cost the next camera its turn
            if repr(error) != self._error:
                self._error = repr(error)
                log.exception("%s: %s", self._name, place.frame.camera)
        finally:
            place.frame = None
