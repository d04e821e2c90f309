"""The progress callback of everything that takes seconds, and how far a step is in words."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the step's description, the amount done, and the total amount (0 if unknown)."""


def quiet(step: str, done: int, total: int) -> None:
    """Ignore progress."""


class StepText:
    """Describes how far the current step is, with the time left at its pace so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step, self._started, self._first = "", 0.0, 0

    def __call__(self, step: str, done: int, total: int) -> str:
        now = self._clock()
        if step != self._step:
            self._step, self._started, self._first = step, now, done
        if not total:
            return step
        advanced = done - self._first
        if advanced <= 0 or done >= total:
            return f"{step} {done}/{total}"
        return f"{step} {done}/{total}, {duration((total - done) * (now - self._started) / advanced)} left"


def duration(seconds: float) -> str:
    """Format a duration for people: 40 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
