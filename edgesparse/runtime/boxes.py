"""The rule for what is a valid box. The GPU kernel follows the same rule (backends/cuda/compact.cuh)."""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-3
"""How much a confidence may exceed 1, because of rounding in softmax and half precision."""
FEW = 24
"""Up to this many boxes, comparing numbers one by one is faster than calls of NumPy and OpenCV (benchmarks/nms.py)."""
COUNTED = 0.1
"""Invalid candidates below this confidence are not counted: thresholds near zero let noise through."""


def valid_boxes(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64], classes: int
) -> NDArray[np.bool_]:
    """Return which of n candidates are valid boxes, bool [n]. A box has finite corners with x1 < x2 and y1 < y2, a
    confidence in 0..1 and a class id in 0..classes - 1. Boxes [n, 4], confidence [n], class_id [n].
    """
    valid: NDArray[np.bool_] = np.all(xyxy[:, :2] < xyxy[:, 2:], axis=1)
    valid &= np.isfinite(xyxy).all(axis=1)
    valid &= confidence <= 1 + ROUNDING  # false for NaN too
    valid &= confidence >= 0
    valid &= class_id.view(np.uint64) < classes  # negative ids are huge
    return valid


def all_valid(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64], classes: int | None
) -> bool:
    """Whether all of n > 0 candidates are valid boxes, none with a confidence above 1: a fast check for the usual case.

    Confidences must already have reached a threshold of at least 0. `classes`: None if ids are known to be below it.
    False does not prove a fault: sums of squares overflow before the numbers do.
    """
    if len(confidence) <= FEW:
        return (
            all(-inf < x1 < x2 < inf and -inf < y1 < y2 < inf for x1, y1, x2, y2 in xyxy.tolist())
            and all(score <= 1 for score in confidence.tolist())
            and (classes is None or all(0 <= label < classes for label in class_id.tolist()))
        )
    return bool(
        (xyxy[:, 2:] > xyxy[:, :2]).all()
        and np.vdot(xyxy, xyxy) < np.inf
        and confidence.max() <= 1  # false for NaN
        and (classes is None or class_id.view(np.uint64).max() < classes)
    )


def faults(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64], classes: int
) -> dict[str, int]:
    """Return how many candidates violate each part of the rule, by description; each candidate counts once. Those with
    a confidence below COUNTED are ignored.
    """
    rest = ~(confidence < COUNTED)
    counts: dict[str, int] = {}
    for text, broken in (
        ("values that are not finite numbers", ~(np.isfinite(xyxy).all(axis=1) & np.isfinite(confidence))),
        ("no width or height", ~(xyxy[:, :2] < xyxy[:, 2:]).all(axis=1)),
        ("a confidence outside 0..1", (confidence < 0) | (confidence > 1 + ROUNDING)),
        (f"a class that is not one of the {classes} named", (class_id < 0) | (class_id >= classes)),
    ):
        if count := int((broken & rest).sum()):
            counts[text] = count
        rest &= ~broken
    return counts
