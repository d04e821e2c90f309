"""The service's observer in the frame loop: counts, feeds systemd's watchdog, slows down beyond a limit."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.service.health import Health
from edgesparse.service.limits import Governor
from edgesparse.service.monitor.all import Monitors
from edgesparse.service.notify import Notify
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.tally import Tally
from edgesparse.stream.cameras import CameraStatus
from edgesparse.stream.frames import Frame

WAIT_FOR_CAMERAS = 10.0
"""Seconds after which the service counts as up although no camera has delivered a frame: its engine has run."""


class Watch:
    """An Observer. It is called in the frame loop's thread, so a hung loop does not feed the watchdog."""

    def __init__(
        self,
        notify: Notify,
        health: Health,
        tally: Tally,
        governor: Governor,
        outputs: Outputs,
        monitors: Monitors | None = None,
    ) -> None:
        self._notify, self._health, self._tally = notify, health, tally
        self._governor, self._outputs, self._monitors = governor, outputs, monitors
        self._started = time.monotonic()

    def frame(self, camera: CameraStatus, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> float:
        self._tally.add(camera.name, row, detections)
        self._health.frame()
        self._outputs.snapshots.offer(frame, detections)
        if self._monitors is not None:
            self._monitors.offer(frame, detections)
        if (counts := self._tally.in_view.add(camera.name, detections)) is not None:
            self._outputs.in_view(camera.name, counts)
        self._outputs.frame_times(frame, detections, row)
        return self._governor.pause(time.monotonic())

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        self._health.update(cameras)
        self._outputs.tick(time.monotonic_ns(), [camera.name for camera in cameras if camera.state == "live"])
        now = time.monotonic()
        if self._health.judge_loop(now).alive:
            self._notify.alive()
        if not self._health.up and (self._tally.frames or not cameras or now - self._started > WAIT_FOR_CAMERAS):
            self._health.up = True
            self._notify.ready()
