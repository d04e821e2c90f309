"""The baseline of pruning.py: NVIDIA ASP's published greedy search for a channel permutation.

Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021, section 4: among all pairs of groups of four
columns, choose the pair whose best rearrangement of its eight columns gains most, apply it, and repeat until no pair
gains. The eight columns can be split into two fours in 35 ways. Then `escapes` random swaps escape from local optima,
as in the paper.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

HALVES = np.array(list(combinations(range(8), 4)))
"""Every four of eight columns, in an order in which the complement of the i-th is the i-th from the end."""


def kept(weights: npt.NDArray[np.float32]) -> float:
    """Sum of magnitudes that 2:4 pruning along the columns of `weights` [rows, n] keeps."""
    ranked = np.sort(np.abs(weights).reshape(len(weights), -1, 4), axis=2)
    return float(ranked[:, :, 2:].sum(dtype=np.float64))


def search(weights: npt.NDArray[np.float32], escapes: int = 0, seed: int = 0) -> npt.NDArray[np.intp]:
    """Final order of the columns after the greedy search."""
    weights, rng = np.abs(weights), np.random.default_rng(seed)
    order = np.arange(weights.shape[1])
    best = _descend(weights, order)
    for _ in range(escapes):
        trial = best.copy()
        a, b = rng.choice(len(order), 2, replace=False)
        trial[[a, b]] = trial[[b, a]]
        trial = _descend(weights, trial)
        if kept(weights[:, trial]) > kept(weights[:, best]):
            best = trial
    return best


def _descend(weights: npt.NDArray[np.float32], order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    order = order.copy()
    groups = range(len(order) // 4)
    pairs = {pair: _best(weights, order, pair) for pair in combinations(groups, 2)}
    while pairs:
        pair = max(pairs, key=lambda p: pairs[p][0])
        gain, split = pairs[pair]
        if gain <= 1e-6 * len(weights):
            break
        places = _places(pair)
        order[places] = order[places][split]
        for other in pairs:
            if set(other) & set(pair):
                pairs[other] = _best(weights, order, other)
    return order


def _best(
    weights: npt.NDArray[np.float32], order: npt.NDArray[np.intp], pair: tuple[int, int]
) -> tuple[float, npt.NDArray[np.intp]]:
    """Gain of the best split of the pair's eight columns, and that split."""
    a, b, c, d = weights[:, order[_places(pair)]][:, HALVES].transpose(2, 0, 1)
    high, other = np.maximum(a, b), np.maximum(c, d)
    second = np.maximum(np.minimum(high, other), np.maximum(np.minimum(a, b), np.minimum(c, d)))
    half = (np.maximum(high, other) + second).sum(axis=0, dtype=np.float64)
    both = half + half[::-1]
    best = int(both.argmax())
    return float(both[best] - both[0]), np.concatenate([HALVES[best], HALVES[-1 - best]])


def _places(pair: tuple[int, int]) -> npt.NDArray[np.intp]:
    return np.concatenate([np.arange(4 * group, 4 * group + 4) for group in pair])
