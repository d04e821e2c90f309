"""Beyond a limit of memory or temperature fewer frames are detected, until it holds again."""

from __future__ import annotations

import logging
import math
import time

from edgesparse.service.machine import Reading
from edgesparse.service.settings import Limits

log = logging.getLogger("edgesparse.service")

LEAST = 1 / 32
DOWN_SECONDS, UP_SECONDS = 2.0, 5.0
COOLER = 4.0
"""Degrees below the limit at which the rate may rise again."""
FREER = 1.15
"""How much more than the limit must be free for that."""
FAR = 5.0
"""Degrees above the limit at which the rate goes to its least at once; also half of the memory that must be free."""
LONGEST_PAUSE = 0.4
"""Seconds; the frame loop is not held up for longer, so it never falls below two and a half frames a second."""


class Governor:
    """Halves the rate each two seconds beyond a limit and raises it by a quarter each five when it holds again.

    `share` is of the rate that the cameras and the engine reach by themselves, which is learned while it is 1.
    `read` is called from any one thread about once a second, `pause` in the frame loop's.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.share = 1.0
        self.why = ""
        """Which limit, in words; empty while the rate is whole."""
        self._full_rate = 0.0
        self._changed = -math.inf
        self._due = 0.0

    def read(self, reading: Reading, rate: float, now: float | None = None) -> None:
        """Take what the board says and the frames a second that were detected lately."""
        now = time.monotonic() if now is None else now
        if self.share == 1.0 and rate > 0:
            self._full_rate = rate if self._full_rate == 0 else 0.8 * self._full_rate + 0.2 * rate
        over, far = self._over(reading)
        if over:
            self._lower(over, far, now)
        elif self.share < 1 and now - self._changed >= UP_SECONDS and self._well_below(reading):
            self._set(min(1.0, self.share * 1.25), self.why, now)

    def _over(self, reading: Reading) -> tuple[str, bool]:
        limits, hottest, free = self.limits, reading.hottest, reading.available
        if hottest is not None and hottest[1] > limits.temperature:
            zone, degrees = hottest
            return f"{zone} has {degrees:.0f} °C, limit {limits.temperature:.0f}", degrees > limits.temperature + FAR
        if free is not None and free < limits.memory:
            return f"{free / 1e6:.0f} MB of memory are free, limit {limits.memory / 1e6:.0f}", free < limits.memory / 2
        return "", False

    def _well_below(self, reading: Reading) -> bool:
        hottest, free = reading.hottest, reading.available
        cool = hottest is None or hottest[1] <= self.limits.temperature - COOLER
        return cool and (free is None or free >= self.limits.memory * FREER)

    def _lower(self, why: str, far: bool, now: float) -> None:
        if self.share > LEAST and (far or now - self._changed >= DOWN_SECONDS):
            self._set(LEAST if far else max(LEAST, self.share / 2), why, now)

    def _set(self, share: float, why: str, now: float) -> None:
        lowered = share < self.share
        self.share, self._changed = share, now
        if share == 1.0:
            log.warning("the rate is whole again")
            self.why = ""
        elif lowered:
            log.warning("slowed down to %.0f %% of the rate: %s", 100 * share, why)
            self.why = why
        else:
            log.info("the rate rises to %.0f %%", 100 * share)

    def pause(self, now: float) -> float:
        """Seconds to wait after a frame; 0 while the rate is whole."""
        if self.share == 1.0:
            return 0.0
        interval = min(LONGEST_PAUSE, 1 / max(self.share * self._full_rate, LEAST))
        self._due = min(max(self._due + interval, now), now + LONGEST_PAUSE)
        return self._due - now
