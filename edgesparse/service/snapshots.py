"""JPEG snapshots of frames with boxes, for the web page and for clips.

They are drawn and encoded in a separate thread, and only while somebody watches. The frame loop's thread copies
a frame into preallocated memory, and only for a camera that is viewed or recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
from pydantic import Field

from edgesparse.runtime.detections import Detections
from edgesparse.service.frame_copies import CopiedFrame, FrameCopies
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.sinks.draw import draw, draw_counts
from edgesparse.values import Section

VIEW_SECONDS = 3.0
"""How long to keep encoding snapshots of a camera after the last request for one."""
_REQUESTED = ("requested",)


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


class _Viewed:
    """Who wants snapshots of a camera, and its newest."""

    def __init__(self) -> None:
        self.due_ns = 0
        self.viewed_at = 0.0
        self.requested = False
        """Whether the next frame is wanted, even if nobody watches."""
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
        self._cameras: dict[str, _Viewed] = {}
        self._copies = FrameCopies("snapshots", self._encode)

    def offer(self, frame: Frame, detections: Detections) -> None:
        """Copy the frame if somebody watches and the previous one has been encoded. Never waits, never allocates."""
        camera = self._camera(frame.source)
        if self.paused:
            return
        requested, camera.requested = camera.requested, False
        if not (requested or (self._is_watched(camera) and frame.time_ns >= camera.due_ns)):
            return
        if self._copies.offer(frame, detections, _REQUESTED if requested else ()):
            interval_ns = int(1e9 / self._settings.fps)
            # Counted from when it was due, so that the average rate is right at any camera frame rate.
            camera.due_ns = max(camera.due_ns + interval_ns, frame.time_ns - interval_ns)
        elif requested:
            camera.requested = True

    def _camera(self, name: str) -> _Viewed:
        return self._cameras.get(name) or self._cameras.setdefault(name, _Viewed())

    def _is_watched(self, camera: _Viewed) -> bool:
        return self.continuous or camera.viewed(time.monotonic())

    def request(self, camera: str) -> None:
        """Have the next frame encoded that is offered, for the listeners."""
        self._camera(camera).requested = True

    @property
    def viewed(self) -> int:
        """Return the number of cameras that somebody watches."""
        now = time.monotonic()
        return sum(camera.viewed(now) for camera in list(self._cameras.values()))

    def view(self, camera: str) -> Snapshot | None:
        """Return the camera's newest snapshot, if any, and keep encoding for VIEW_SECONDS."""
        viewed = self._cameras.get(camera)
        if viewed is None:
            return None
        viewed.viewed_at = time.monotonic()
        return viewed.snapshot

    def keep(self, cameras: Sequence[str]) -> None:
        """Free the memory of all other cameras."""
        for name in set(self._cameras) - set(cameras):
            self._cameras.pop(name, None)
        self._copies.keep(cameras)

    def change(self, settings: SnapshotSettings, names: Sequence[str]) -> None:
        """Apply new settings, or another engine's class names."""
        self._settings, self.names = settings, names

    def free(self) -> None:
        """Free all images; they are allocated again when somebody watches a camera."""
        self._copies.free()
        for camera in list(self._cameras.values()):
            camera.snapshot = None

    def close(self) -> None:
        self._copies.close()

    # The rest runs in the thread of the copies.

    def _encode(self, frame: CopiedFrame) -> None:
        camera = self._cameras.get(frame.camera)
        if camera is None:
            return
        image, detections = self._scaled(frame.image), frame.detections
        if detections.counts is not None:
            draw_counts(image, detections.counts)
        draw(image, detections, self.names, scale=image.shape[1] / frame.image.shape[1])
        ok, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, self._settings.quality))
        if not ok:
            return
        number = camera.snapshot.number + 1 if camera.snapshot else 1
        requested = frame.reasons == _REQUESTED
        snapshot = Snapshot(jpeg.tobytes(), frame.time_ns, number, len(detections), requested)
        for listener in self.listeners:
            listener(frame.camera, snapshot)
        camera.snapshot = snapshot

    def _scaled(self, image: Image) -> Image:
        """Return the image at most `width` pixels wide; the copy itself, which nobody else reads, if it is."""
        height, width = image.shape[:2]
        if width <= self._settings.width:
            return image
        size = self._settings.width, max(1, round(height * self._settings.width / width))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
