"""Of each item at most one choice, so that together they gain the most within a budget: the multiple-choice knapsack.

Dynamic programming over a discretized budget, as SPDY assigns sparsity to layers (Frantar and Alistarh, "SPDY: Accurate
Pruning with Speedup Guarantees", ICML 2022). Costs are rounded up, so the budget holds; a greedy solution, which needs
no rounding, is taken if it gains more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 14
"""Parts of the budget: the rounding of `n` items costs at most `n` of them."""


@dataclass(frozen=True)
class Choice:
    """What a choice gains and costs, each 0 or more, in any unit."""

    gain: float
    cost: float


Picks = list[int | None]
"""For each item the index of its choice; None for none, which gains and costs nothing."""


def pick(items: Sequence[Sequence[Choice]], budget: float) -> Picks:
    """Return the choices that gain the most and cost at most `budget` together."""
    solutions = (_greedy(items, budget), _exact(items, budget))
    return max(solutions, key=lambda picks: total(items, picks).gain)


def total(items: Sequence[Sequence[Choice]], picks: Picks) -> Choice:
    """Return what these choices gain and cost together."""
    chosen = [choices[at] for choices, at in zip(items, picks, strict=True) if at is not None]
    return Choice(sum(choice.gain for choice in chosen), sum(choice.cost for choice in chosen))


def _greedy(items: Sequence[Sequence[Choice]], budget: float) -> Picks:
    """Take the choices with the best ratio first, one per item, as long as they fit."""
    order = [(choice, item, at) for item, choices in enumerate(items) for at, choice in enumerate(choices)]
    picks: Picks = [None] * len(items)
    left = budget
    for choice, item, at in sorted(order, key=lambda entry: entry[0].cost / max(entry[0].gain, 1e-300)):
        if picks[item] is None and choice.gain > 0 and choice.cost <= left:
            picks[item] = at
            left -= choice.cost
    return picks


def _exact(items: Sequence[Sequence[Choice]], budget: float) -> Picks:
    """Exact for costs that are whole parts of the budget; rounds others up."""
    most = np.zeros(BUCKETS + 1)
    taken: list[NDArray[np.int16]] = []
    for choices in items:
        best, chosen = most.copy(), np.full(BUCKETS + 1, -1, np.int16)
        for at, choice in enumerate(choices):
            parts = _parts(choice.cost, budget)
            if parts <= BUCKETS:
                gained = most[: BUCKETS + 1 - parts] + choice.gain
                better = gained > best[parts:]
                best[parts:][better] = gained[better]
                chosen[parts:][better] = at
        most = best
        taken.append(chosen)
    picks: Picks = []
    left = BUCKETS
    for choices, chosen in zip(reversed(items), reversed(taken), strict=True):
        at = int(chosen[left])
        picks.append(None if at < 0 else at)
        left -= _parts(choices[at].cost, budget) if at >= 0 else 0
    return picks[::-1]


def _parts(cost: float, budget: float) -> int:
    if cost <= 0:
        return 0
    return ceil(cost / budget * BUCKETS - 1e-9) if cost <= budget else BUCKETS + 1
