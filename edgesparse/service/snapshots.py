"""JPEG snapshots of frames with boxes, for the web page and for clips.

They are drawn and encoded in a separate thread, and only while somebody watches. The frame loop's thread copies
a frame into preallocated memory, and only for a camera that is viewed or recorded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.sinks.draw import draw, draw_counts
from edgesparse.supervised import Supervised
from edgesparse.values import Section

log = logging.getLogger("edgesparse.service")

VIEW_SECONDS = 3.0
"""How long to keep encoding snapshots of a camera after the last request for one."""
MAX_PIXELS = 64_000_000


class SnapshotSettings(Section):
    """How snapshots are encoded, for the web page and for clips."""

    fps: Annotated[float, Field(gt=0, le=30)] = 8.0
    """Most snapshots per second of each camera."""
    width: Annotated[int, Field(ge=64, le=3840)] = 960
    """Width in pixels that wider frames are scaled down to."""
    quality: Annotated[int, Field(ge=10, le=100)] = 80
    """JPEG quality."""


@dataclass(frozen=True)
class Snapshot:
    """`jpeg`: the frame with boxes drawn. `time_ns`: the frame's, on the monotonic clock. `number`: counts each
    camera's snapshots. `detections`: boxes in it. `requested`: whether `request` asked for it."""

    jpeg: bytes
    time_ns: int
    number: int
    detections: int
    requested: bool = False


Listener = Callable[[str, Snapshot], None]
"""Called with the camera's name, in the thread that encodes."""


class _Buffer:
    """One camera's frame between the frame loop, which copies it in, and the encoder."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.image: Image = np.empty((0, 0, 3), np.uint8)
        self.shape: tuple[int, ...] = ()
        """Shape of the last frame offered, which `image` must be allocated for."""
        self.detections = Detections.none()
        self.time_ns = 0
        self.fresh = False
        """Whether `image` holds a frame that has not been encoded yet."""
        self.due_ns = 0
        self.viewed_at = 0.0
        self.requested = False
        """Whether the next frame is wanted, even if nobody watches."""
        self.requested_image = False
        """Whether `image` holds that frame."""
        self.snapshot: Snapshot | None = None

    def viewed(self, now: float) -> bool:
        return now - self.viewed_at < VIEW_SECONDS


class SnapshotEncoder:
    """`offer` is called in the frame loop's thread, everything else in others. Release it with `close`."""

    def __init__(self, settings: SnapshotSettings, names: Sequence[str]) -> None:
        self.names = names
        self.paused = False
        """Whether encoding is suspended because memory is low."""
        self.listeners: tuple[Listener, ...] = ()
        self.continuous = False
        """Whether snapshots of all cameras are encoded, viewed or not."""
        self._settings = settings
        self._buffers: dict[str, _Buffer] = {}
        self._offered = threading.Event()
        self._closed = False
        self._thread = Supervised("snapshots", self._run)

    def offer(self, camera: str, frame: Frame, detections: Detections) -> None:
        """Copy the frame if somebody watches and the previous one has been encoded. Never waits, never allocates."""
        buffer = self._buffers.get(camera)
        if buffer is None:
            buffer = self._buffers.setdefault(camera, _Buffer())
        if self.paused or not (buffer.requested or (self._is_watched(buffer) and frame.time_ns >= buffer.due_ns)):
            return
        if not buffer.lock.acquire(blocking=False):
            return
        interval_ns = int(1e9 / self._settings.fps)
        try:
            buffer.shape = frame.image.shape
            if buffer.image.shape == buffer.shape:
                np.copyto(buffer.image, frame.image)
                buffer.detections, buffer.time_ns, buffer.fresh = detections, frame.time_ns, True
                buffer.requested_image |= buffer.requested
                buffer.requested = False
                # Counted from when it was due, so that the average rate is right at any camera frame rate.
                buffer.due_ns = max(buffer.due_ns + interval_ns, frame.time_ns - interval_ns)
        finally:
            buffer.lock.release()
        self._offered.set()

    def _is_watched(self, buffer: _Buffer) -> bool:
        return self.continuous or buffer.viewed(time.monotonic())

    def request(self, camera: str) -> None:
        """Have the next frame encoded that is offered, for the listeners."""
        self._buffers.setdefault(camera, _Buffer()).requested = True

    @property
    def viewed(self) -> int:
        """Return the number of cameras that somebody watches."""
        now = time.monotonic()
        return sum(buffer.viewed(now) for buffer in list(self._buffers.values()))

    def view(self, camera: str) -> Snapshot | None:
        """Return the camera's newest snapshot, if any, and keep encoding for VIEW_SECONDS."""
        buffer = self._buffers.get(camera)
        if buffer is None:
            return None
        buffer.viewed_at = time.monotonic()
        return buffer.snapshot

    def keep(self, cameras: Sequence[str]) -> None:
        """Free the memory of all other cameras."""
        for name in set(self._buffers) - set(cameras):
            self._buffers.pop(name, None)

    def change(self, settings: SnapshotSettings, names: Sequence[str]) -> None:
        """Apply new settings, or another engine's class names."""
        self._settings, self.names = settings, names

    def free(self) -> None:
        """Free all images; they are allocated again when somebody watches a camera."""
        for buffer in list(self._buffers.values()):
            with buffer.lock:
                buffer.image, buffer.shape, buffer.fresh = np.empty((0, 0, 3), np.uint8), (), False
                buffer.snapshot = None

    def close(self) -> None:
        self._closed = True
        self._thread.leave()
        self._offered.set()
        self._thread.join(2.0)

    # The rest runs in the encoder's thread.

    def _run(self) -> None:
        while not self._closed:
            self._offered.wait()
            self._offered.clear()
            for camera, buffer in list(self._buffers.items()):
                self._try(camera, buffer)

    def _try(self, camera: str, buffer: _Buffer) -> None:
        try:
            self._encode(camera, buffer)
        except Exception:
            log.exception("no snapshot of %s", camera)

    def _encode(self, camera: str, buffer: _Buffer) -> None:
        with buffer.lock:
            if buffer.image.shape != buffer.shape and buffer.shape and np.prod(buffer.shape) < 3 * MAX_PIXELS:
                buffer.image = np.zeros(buffer.shape, np.uint8)
            if not buffer.fresh:
                return
            buffer.fresh = False
            image, detections, time_ns = self._scaled(buffer.image), buffer.detections, buffer.time_ns
            requested, buffer.requested_image = buffer.requested_image, False
            scale = image.shape[1] / buffer.image.shape[1]
        if detections.counts is not None:
            draw_counts(image, detections.counts)
        draw(image, detections, self.names, scale=scale)
        ok, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, self._settings.quality))
        if not ok:
            return
        number = buffer.snapshot.number + 1 if buffer.snapshot else 1
        snapshot = Snapshot(jpeg.tobytes(), time_ns, number, len(detections), requested)
        for listener in self.listeners:
            listener(camera, snapshot)
        buffer.snapshot = snapshot

    def _scaled(self, image: Image) -> Image:
        """Return a copy at most `width` pixels wide."""
        height, width = image.shape[:2]
        if width <= self._settings.width:
            return image.copy()
        size = self._settings.width, max(1, round(height * self._settings.width / width))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
