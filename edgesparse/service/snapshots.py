"""Frames with boxes as JPEG, for those who look and for clips; made in a thread of their own, and only when wanted.

The frame loop's thread copies a frame into memory that is there already, and only for a camera that somebody looks at.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from edgesparse.runtime.detections import Detections
from edgesparse.service import settings
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.sinks.draw import draw

log = logging.getLogger("edgesparse.service")

LOOKED_SECONDS = 3.0
"""How long after the last request a camera's snapshots are still made."""
NICE = 10
MOST_PIXELS = 64_000_000


@dataclass(frozen=True)
class Snapshot:
    """`jpeg` with boxes drawn; `time_ns`: its frame's, on the monotonic clock; `number` grows with each of a camera."""

    jpeg: bytes
    time_ns: int
    number: int
    found: int


Listener = Callable[[str, Snapshot], None]
"""Called with the camera's name, in the thread that makes the snapshots."""


class _Held:
    """One camera's frame on its way: copied in by the frame loop, taken out by the thread that encodes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.image: Image = np.empty((0, 0, 3), np.uint8)
        self.shape: tuple[int, ...] = ()
        """Of the last frame that was offered."""
        self.detections = Detections.none()
        self.time_ns = 0
        self.fresh = False
        self.due_ns = 0
        self.looked = 0.0
        self.snapshot: Snapshot | None = None


class Snapshots:
    """`offer` is called in the frame loop's thread, everything else in others. Closed by `close`."""

    def __init__(self, said: settings.Snapshots, names: Sequence[str]) -> None:
        self.names = names
        self.paused = False
        """Whether none are made, for want of memory."""
        self.listeners: tuple[Listener, ...] = ()
        self._said = said
        self._held: dict[str, _Held] = {}
        self._offered = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def offer(self, camera: str, frame: Frame, detections: Detections) -> None:
        """Copy the frame, if somebody wants it and the last one has been taken; never waits, never allocates."""
        held = self._held.get(camera)
        if held is None:
            held = self._held.setdefault(camera, _Held())
        if self.paused or not self._wanted(held) or frame.time_ns < held.due_ns:
            return
        if not held.lock.acquire(blocking=False):
            return
        interval_ns = int(1e9 / self._said.fps)
        try:
            held.shape = frame.image.shape
            if held.image.shape == held.shape:
                np.copyto(held.image, frame.image)
                held.detections, held.time_ns, held.fresh = detections, frame.time_ns, True
                # Counted on from when it was due, so that the average comes out right with any camera's rate.
                held.due_ns = max(held.due_ns + interval_ns, frame.time_ns - interval_ns)
        finally:
            held.lock.release()
        self._offered.set()

    def _wanted(self, held: _Held) -> bool:
        return bool(self.listeners) or time.monotonic() - held.looked < LOOKED_SECONDS

    @property
    def viewed(self) -> int:
        """How many cameras somebody looks at."""
        now = time.monotonic()
        return sum(now - held.looked < LOOKED_SECONDS for held in list(self._held.values()))

    def look(self, camera: str) -> Snapshot | None:
        """Want this camera's snapshots for some seconds; the newest, if there is one."""
        held = self._held.get(camera)
        if held is None:
            return None
        held.looked = time.monotonic()
        return held.snapshot

    def forget(self, cameras: Sequence[str]) -> None:
        """Free the memory of cameras that are not among these."""
        for name in set(self._held) - set(cameras):
            self._held.pop(name, None)

    def change(self, said: settings.Snapshots, names: Sequence[str]) -> None:
        """Other settings, or another engine's classes."""
        self._said, self.names = said, names

    def free(self) -> None:
        """Give back what is held; it is made anew when somebody looks."""
        for held in list(self._held.values()):
            with held.lock:
                held.image, held.shape, held.fresh = np.empty((0, 0, 3), np.uint8), (), False
                held.snapshot = None

    def close(self) -> None:
        self._closed = True
        self._offered.set()
        self._thread.join(2.0)

    # What follows runs in the thread that makes the snapshots.

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while not self._closed:
            self._offered.wait()
            self._offered.clear()
            for camera, held in list(self._held.items()):
                self._try(camera, held)

    def _try(self, camera: str, held: _Held) -> None:
        try:
            self._make(camera, held)
        except Exception:
            log.exception("no snapshot of %s", camera)

    def _make(self, camera: str, held: _Held) -> None:
        with held.lock:
            if held.image.shape != held.shape and held.shape and np.prod(held.shape) < 3 * MOST_PIXELS:
                held.image = np.zeros(held.shape, np.uint8)
            if not held.fresh:
                return
            held.fresh = False
            image, detections, time_ns = self._smaller(held.image), held.detections, held.time_ns
            scale = image.shape[1] / held.image.shape[1]
        detections = replace(detections, xyxy=detections.xyxy * np.float32(scale))
        draw(image, detections, self.names)
        ok, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, self._said.quality))
        if not ok:
            return
        number = held.snapshot.number + 1 if held.snapshot else 1
        snapshot = Snapshot(jpeg.tobytes(), time_ns, number, len(detections))
        for listener in self.listeners:
            listener(camera, snapshot)
        held.snapshot = snapshot

    def _smaller(self, image: Image) -> Image:
        """A copy, no wider than is said."""
        height, width = image.shape[:2]
        if width <= self._said.width:
            return image.copy()
        size = self._said.width, max(1, round(height * self._said.width / width))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
