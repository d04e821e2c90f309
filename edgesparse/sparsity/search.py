"""Finds how many changes, in order of what they cost, fit within a drop of the score: by trial, since errors add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Trial = TypeVar("Trial")


@dataclass(frozen=True)
class Search:
    """`saved` [n]: what the first 1, 2, ... n changes save. The search stops once it is known to within `step` of that.

    `max_drop`: points that may be lost.
    """

    saved: npt.NDArray[np.float64]
    step: float
    max_drop: float

    def run(
        self,
        low: int,
        best: Trial,
        trial: Callable[[int], Trial],
        drop: Callable[[Trial], float],
        first: int | None = None,
    ) -> Trial:
        """Return the trial with the most changes within the drop; `best` is that with `low` changes, which is.

        `first`: how many to try first.
        """
        saved, high, excess = self.saved, len(self.saved) + 1, None
        while high - low > 1 and (saved[high - 2] - (saved[low - 1] if low else 0) > self.step or low == 0):
            count = first or self._between(low, high, _fraction(drop(best), excess, self.max_drop))
            first = None
            tried = trial(count)
            if drop(tried) <= self.max_drop:
                low, best = count, tried
            else:
                high, excess = count, drop(tried)
        return best

    def _between(self, low: int, high: int, fraction: float) -> int:
        """Return the count between `low` and `high` that is closest to this fraction of what is saved in between."""
        saved = self.saved
        start, end = saved[low - 1] if low else 0.0, saved[min(high, len(saved)) - 1]
        return int(np.clip(np.searchsorted(saved, start + fraction * (end - start)) + 1, low + 1, high - 1))


def _fraction(least: float, most: float | None, allowed: float) -> float:
    """Return where between drops `least` and `most` the `allowed` drop is: a drop grows roughly with the square of the
    share.
    """
    if most is None:
        return 0.5
    low, high, target = (max(drop, 0.0) ** 0.5 for drop in (least, most, allowed))
    return float(np.clip((target - low) / (high - low), 0.1, 0.9))
