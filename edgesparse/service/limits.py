"""Reduce the frame rate while a memory or temperature limit is exceeded."""

from __future__ import annotations

import logging
import math
import time

from edgesparse.service.machine import Reading
from edgesparse.service.settings import LimitSettings

log = logging.getLogger("edgesparse.service")

MIN_SHARE = 1 / 32
DOWN_SECONDS, UP_SECONDS = 2.0, 5.0
MARGIN_CELSIUS = 4.0
"""Degrees below the limit at which the rate may increase again."""
MARGIN_MEMORY = 1.15
"""Ratio of free memory to its limit at which the rate may increase again."""
FAR = 5.0
"""Degrees above the limit at which the rate drops to its minimum at once, as it does at half of the memory limit."""
LONGEST_PAUSE = 0.4
"""Longest delay of the frame loop in seconds, so that the rate never falls below 2.5 frames per second."""


class Governor:
    """Halves the rate every two seconds beyond a limit, and raises it by a quarter every five when the limit is met.

    `share` is the part of the rate that cameras and engine reach without a limit, which is learned while it is 1.
    `read` is called in any one thread about once per second, `pause` in the frame loop's.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.limits = limits
        self.share = 1.0
        self.why = ""
        """The limit that is exceeded; empty while the rate is not reduced."""
        self._full_rate = 0.0
        self._changed = -math.inf
        self._due = 0.0

    def read(self, reading: Reading, rate: float, now: float | None = None) -> None:
        """Update with the board's reading and the recent frame rate in frames per second."""
        now = time.monotonic() if now is None else now
        if self.share == 1.0 and rate > 0:
            self._full_rate = rate if self._full_rate == 0 else 0.8 * self._full_rate + 0.2 * rate
        why, far = self._exceeded(reading)
        if why:
            self._lower(why, far, now)
        elif self.share < 1 and now - self._changed >= UP_SECONDS and self._well_below(reading):
            self._set(min(1.0, self.share * 1.25), self.why, now)

    def _exceeded(self, reading: Reading) -> tuple[str, bool]:
        limits, hottest, free = self.limits, reading.hottest, reading.available
        if hottest is not None and hottest[1] > limits.temperature:
            zone, degrees = hottest
            return f"{zone} is at {degrees:.0f} °C, limit {limits.temperature:.0f}", degrees > limits.temperature + FAR
        if free is not None and free < limits.memory:
            return f"{free / 1e6:.0f} MB of memory free, limit {limits.memory / 1e6:.0f}", free < limits.memory / 2
        return "", False

    def _well_below(self, reading: Reading) -> bool:
        hottest, free = reading.hottest, reading.available
        cool = hottest is None or hottest[1] <= self.limits.temperature - MARGIN_CELSIUS
        return cool and (free is None or free >= self.limits.memory * MARGIN_MEMORY)

    def _lower(self, why: str, far: bool, now: float) -> None:
        if self.share > MIN_SHARE and (far or now - self._changed >= DOWN_SECONDS):
            self._set(MIN_SHARE if far else max(MIN_SHARE, self.share / 2), why, now)

    def _set(self, share: float, why: str, now: float) -> None:
        lowered = share < self.share
        self.share, self._changed = share, now
        if share == 1.0:
            log.warning("the frame rate is back to normal")
            self.why = ""
        elif lowered:
            log.warning("slowed down to %.0f %% of the frame rate: %s", 100 * share, why)
            self.why = why
        else:
            log.info("the frame rate rises to %.0f %%", 100 * share)

    def pause(self, now: float) -> float:
        """Return how many seconds to wait after a frame; 0 while the rate is not reduced."""
        if self.share == 1.0:
            return 0.0
        interval = min(LONGEST_PAUSE, 1 / max(self.share * self._full_rate, MIN_SHARE))
        self._due = min(max(self._due + interval, now), now + LONGEST_PAUSE)
        return self._due - now
