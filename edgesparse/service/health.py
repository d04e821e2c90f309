"""Whether the service works, judged from what the frame loop records."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgesparse.stream.cameras import CameraStatus
from edgesparse.supervised import thread_states

PATIENCE = 5.0
"""Acceptable seconds without an iteration of the frame loop, or without results from a live camera."""


OUTPUT_SECONDS = 5
"""Seconds over which invalid model outputs are counted."""


@dataclass(frozen=True)
class Judgement:
    """`alive`: frames are processed, or cameras are retried. `detecting`: results arrive. `why`: the reason if either
    is false, or what else is wrong.
    """

    alive: bool
    detecting: bool
    why: str


class Health:
    """Written by the frame loop's thread. Times are in seconds on the monotonic clock; 0 means never."""

    def __init__(self) -> None:
        self.slowest = PATIENCE
        """Acceptable seconds between two results: more if the cameras' frame rates are low."""
        self.up = False
        """Whether systemd has been told that the service is up, that is, that its engine has returned a result."""
        self.turn_at = self.frame_at = 0.0
        self.failing = self.errors = 0
        """Failed inferences: in a row, and in total."""
        self._answered, self._failed_at = 0, -math.inf
        self.cameras: Sequence[CameraStatus] = ()
        self.invalid = ""
        """How many model outputs were invalid recently, and why; empty if none were."""
        self._mostly_invalid = False
        self._outputs: deque[tuple[int, int]] = deque(maxlen=OUTPUT_SECONDS + 1)
        self.loading = "starting"
        """What keeps the frame loop from running; empty if nothing does."""

    def update(self, cameras: Sequence[CameraStatus]) -> None:
        self.turn_at, self.cameras, self.loading = time.monotonic(), cameras, ""

    def frame(self) -> None:
        self.frame_at, self.failing = time.monotonic(), 0

    def failed(self, answered: int = 0) -> None:
        """Count a failed inference. `answered`: how many requests had succeeded before."""
        if answered != self._answered:
            self._answered, self.failing = answered, 0
        self.failing += 1
        self.errors += 1
        self._failed_at = time.monotonic()

    def outputs(self, kept: int, faults: Mapping[str, int]) -> None:
        """Take the counts of detections and, by fault, of invalid boxes so far. Called once per second."""
        dropped = sum(faults.values())
        if self._outputs and (kept < self._outputs[-1][0] or dropped < self._outputs[-1][1]):
            self._outputs.clear()  # a new engine counts from zero
        self._outputs.append((kept, dropped))
        kept, dropped = kept - self._outputs[0][0], dropped - self._outputs[0][1]
        self._mostly_invalid = dropped > kept
        worst = max(faults, key=lambda fault: faults[fault], default="")
        self.invalid = f"{dropped} model outputs are not valid boxes: {worst}" if dropped else ""

    def judge(self, now: float | None = None) -> Judgement:
        """Judge the frame loop and all threads of the service."""
        loop = self.judge_loop(now)
        down = [
            f"thread {thread.name} fails again and again: {thread.why}" for thread in thread_states() if thread.down
        ]
        return Judgement(False, loop.detecting, "; ".join(filter(None, (*down, loop.why)))) if down else loop

    def judge_loop(self, now: float | None = None) -> Judgement:
        """Judge the frame loop alone, which feeds the watchdog: a restart costs frames, and would not help a thread."""
        now = time.monotonic() if now is None else now
        if self.loading:
            return Judgement(False, False, self.loading)
        if now - self.turn_at > PATIENCE:
            return Judgement(False, False, f"the frame loop has hung for {now - self.turn_at:.0f} s")
        if not self.cameras and now - self._failed_at > PATIENCE:
            return Judgement(True, True, "")  # only requests are answered, and none may have come since
        if self.failing:
            return Judgement(False, False, f"inference failed {self.failing} times in a row")
        live = [camera for camera in self.cameras if camera.state == "live"]
        away = [camera for camera in self.cameras if camera.state not in ("live", "paused")]
        since = max([self.frame_at, *(camera.since_ns / 1e9 for camera in live)])
        if live and now - since > self.slowest:
            return Judgement(False, False, f"no result for {now - since:.0f} s, though cameras are live")
        if not live and not away and self.cameras:
            return Judgement(True, False, "all cameras are paused")
        if not live:
            return Judgement(True, False, f"no camera delivers frames: {_listed(away)}")
        if not self.frame_at:
            return Judgement(True, False, "waiting for the first inference")
        if self._mostly_invalid:
            return Judgement(True, False, self.invalid)
        missing = f"{len(away)} of {len(self.cameras)} cameras away: {_listed(away)}" if away else ""
        return Judgement(True, True, "; ".join(filter(None, (missing, self.invalid))))


def _listed(cameras: Sequence[CameraStatus]) -> str:
    named = [f"{camera.name} ({camera.why or camera.state})" for camera in cameras[:4]]
    more = f" and {len(cameras) - 4} more" if len(cameras) > 4 else ""
    return ", ".join(named) + more
