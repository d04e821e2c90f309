"""A scale and an offset per class that bring a changed model's confidences back to the original's, without labels.

On the logit of the confidence, as in Platt scaling (1999) and vector scaling (Guo et al., 2017, arXiv:1706.04599), with
the original's confidence in place of the truth. The map is increasing and the same for all boxes of a class, so their
order and average precision stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesparse.confidences import KEPT
from edgesparse.runtime.confidence_shift import BoxPairs

Floats = NDArray[np.float64]
SCALES = (0.67, 1.5)
"""Bounds of the scale: what lies outside is not rounding."""
FEW = 30
"""Pairs that a map needs."""


@dataclass(frozen=True)
class ConfidenceMap:
    """Confidence Sigmoid(z) becomes Sigmoid(scale * z + offsets[class])."""

    scale: float
    offsets: Floats

    def after(self, other: ConfidenceMap) -> ConfidenceMap:
        """Return the map that applies `other`, then this."""
        return ConfidenceMap(self.scale * other.scale, self.scale * other.offsets + self.offsets)

    def __call__(self, pairs: BoxPairs) -> Floats:
        """Return the changed model's confidences with this map."""
        return _sigmoid(self.scale * _logit(pairs.after) + self.offsets[pairs.class_id])


def identity(classes: int) -> ConfidenceMap:
    """Return the map that changes nothing."""
    return ConfidenceMap(1.0, np.zeros(classes))


def fit(pairs: BoxPairs, classes: int) -> ConfidenceMap | None:
    """Return the map for `pairs`, matched from a confidence well below KEPT; None if fewer than FEW count.

    Pairs count whose confidences are KEPT in the mean of both: a choice by one of them alone would take its rounding
    for a shift. The offset of a class is drawn towards that of all, the more the fewer its pairs are (empirical Bayes).
    """
    both = (pairs.before + pairs.after) / 2 >= KEPT
    x, y, of = _logit(pairs.after)[both], _logit(pairs.before)[both], pairs.class_id[both]
    if len(x) < FEW:
        return None
    scale = float(np.clip(_spread(y) / max(_spread(x), 1e-6), *SCALES))
    rest = y - scale * x
    offset = float(np.median(rest))
    return ConfidenceMap(scale, offset + _by_class(rest - offset, of, classes))


def _by_class(rest: Floats, of: NDArray[np.int64], classes: int) -> Floats:
    """Return the mean of `rest` per class, drawn towards 0 as the variances within and between classes say."""
    limit = 3 * 1.4826 * float(np.median(np.abs(rest)))
    rest = np.clip(rest, -limit, limit)
    count = np.bincount(of, minlength=classes)
    present = int((count > 0).sum())
    if present == len(rest):  # one pair per class says nothing of the variance within one
        return np.zeros(classes)
    some = np.maximum(count, 1)
    mean = np.bincount(of, rest, classes) / some
    within = float(((rest - mean[of]) ** 2).sum()) / (len(rest) - present)
    between = float((count * mean**2).sum()) / len(rest) - within * present / len(rest)
    return mean / (1 + within / between / some) if between > 0 else np.zeros(classes)


def _spread(values: Floats) -> float:
    low, high = np.percentile(values, [10, 90])
    return float(high - low)


def _logit(confidence: Floats) -> Floats:
    clipped = np.clip(confidence, 1e-4, 1 - 1e-4)
    values: Floats = np.log(clipped / (1 - clipped))
    return values


def _sigmoid(z: Floats) -> Floats:
    values: Floats = 1 / (1 + np.exp(-z))
    return values
