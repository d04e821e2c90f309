"""The one rule for what is a box. The GPU's kernel follows the same (backends/cuda/compact.cuh)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-3
"""How far a confidence may exceed 1: softmax and half precision round."""
COUNTED = 0.1
"""Faults below this confidence are dropped without being counted: thresholds near zero let noise through."""


def valid_boxes(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64], classes: int
) -> NDArray[np.bool_]:
    """Which of n candidates are boxes [n].

    A box has finite corners with x1 < x2 and y1 < y2, a confidence in 0..1 and a class id in 0..classes - 1. Boxes
    [n, 4], confidence [n], class_id [n].
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
    """Whether all of n > 0 candidates are boxes, none with a confidence above 1: the usual case, checked fast.

    Confidences are taken to have reached a threshold of at least 0. `classes`: None where ids are known to be below it.
    False does not mean that there is a fault: sums of squares overflow before numbers do.
    """
    return bool(
        (xyxy[:, 2:] > xyxy[:, :2]).all()
        and np.vdot(xyxy, xyxy) < np.inf
        and confidence.max() <= 1  # false for NaN
        and (classes is None or class_id.view(np.uint64).max() < classes)
    )


def faults(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64], classes: int
) -> dict[str, int]:
    """How many candidates break each part of the rule, in words; each candidate counts once.

    Those with a confidence below COUNTED are left out.
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
