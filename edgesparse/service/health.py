"""Whether the service does its work: what the frame loop leaves behind, judged by others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgesparse.stream.cameras import CameraStatus

PATIENCE = 5.0
"""Seconds without a turn of the frame loop, or without a detected frame of a live camera, that are still all right."""


@dataclass(frozen=True)
class Judgement:
    """`alive`: frames are being processed, or cameras retried. `detecting`: results come. `why` not, in words."""

    alive: bool
    detecting: bool
    why: str


class Health:
    """Times are of the monotonic clock, in seconds; 0 is never."""

    def __init__(self) -> None:
        self.slowest = PATIENCE
        """Seconds between two detected frames that are all right: more where a camera's rate is low."""
        self.up = False
        """Whether systemd was told that the service is up: its engine has given a result."""
        self.turned = self.framed = 0.0
        self.failing = self.errors = 0
        """Inferences that failed: in a row, and in all."""
        self.cameras: Sequence[CameraStatus] = ()
        self.loading = "starting"
        """What keeps the loop from running, in words; empty when nothing does."""

    def turn(self, cameras: Sequence[CameraStatus]) -> None:
        self.turned, self.cameras, self.loading = time.monotonic(), cameras, ""

    def frame(self) -> None:
        self.framed, self.failing = time.monotonic(), 0

    def failed(self) -> None:
        self.failing += 1
        self.errors += 1

    def judge(self, now: float | None = None) -> Judgement:
        now = time.monotonic() if now is None else now
        if self.loading:
            return Judgement(False, False, self.loading)
        if now - self.turned > PATIENCE:
            return Judgement(False, False, f"the frame loop has hung for {now - self.turned:.0f} s")
        if self.failing:
            return Judgement(False, False, f"inference failed {self.failing} times in a row")
        live = [camera for camera in self.cameras if camera.state == "live"]
        away = [camera for camera in self.cameras if camera.state != "live"]
        since = max([self.framed, *(camera.since_ns / 1e9 for camera in live)])
        if live and now - since > self.slowest:
            return Judgement(False, False, f"no frame was detected for {now - since:.0f} s, though cameras are live")
        if not live:
            return Judgement(True, False, f"no camera gives frames: {_listed(away)}")
        if not self.framed:
            return Judgement(True, False, "waiting for the first inference")
        return Judgement(
            True, True, f"{len(away)} of {len(self.cameras)} cameras away: {_listed(away)}" if away else ""
        )


def _listed(cameras: Sequence[CameraStatus]) -> str:
    named = [f"{camera.name} ({camera.why or camera.state})" for camera in cameras[:4]]
    more = f" and {len(cameras) - 4} more" if len(cameras) > 4 else ""
    return ", ".join(named) + more or "there is none"
