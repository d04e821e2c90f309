"""Steps of decoding that several families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode

NO_CANDIDATES: Candidates = np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)


def at_least(scores: NDArray[Any], conf: float) -> NDArray[np.intp]:
    """Indices of the scores [n] that are not below `conf`. NaN is not below: the detector drops and counts it."""
    below = scores < conf
    kept: NDArray[np.intp] = np.logical_not(below, out=below).nonzero()[0]
    return kept


def corners(center_size: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes [n, 4] from center x, y, width, height to xyxy, computed in float32."""
    center, half = center_size[:, :2].astype(np.float32), center_size[:, 2:].astype(np.float32) * 0.5
    return np.concatenate([center - half, center + half], 1)


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Computed with tanh, which cannot overflow."""
    return np.tanh(logits * 0.5) * 0.5 + 0.5


def power(confidences: NDArray[Any], exponent: float) -> NDArray[Any]:
    """`confidences` ** `exponent` in float32, where a negative one counts as 0."""
    raised: NDArray[Any] = np.maximum(confidences, 0, dtype=np.float32) ** np.float32(exponent)
    return raised


def labeled(boxes: NDArray[np.float32], scores: NDArray[Any], conf: float, multi_label: bool) -> Candidates:
    """Candidates from boxes [n, 4] and scores [n, C]: each box with its best class, or with every class from `conf`."""
    if multi_label and conf <= 0:  # everything, without a comparison
        count = scores.shape[1]
        class_id = np.tile(np.arange(count), len(scores))
        return np.repeat(boxes, count, axis=0), scores.reshape(-1).astype(np.float32, copy=False), class_id
    if multi_label:
        row, class_id = np.nonzero(~(scores < conf))
        return boxes[row], scores[row, class_id].astype(np.float32), class_id
    if not len(scores):
        return boxes, np.empty(0, np.float32), np.empty(0, np.int64)
    class_id, best = scores.argmax(axis=1), scores.max(axis=1).astype(np.float32, copy=False)
    keep = at_least(best, conf)
    if len(keep) == len(best):
        return boxes, best, class_id
    return boxes.take(keep, 0), best.take(keep), class_id.take(keep)


def listed(rows: Callable[[Sequence[NDArray[Any]], int], tuple[NDArray[Any], ...]], conf: float) -> Decode:
    """Decode a list of final boxes. `rows` returns xyxy [n, 4], confidence [n] and class [n] of one image.

    A class that is not an integer becomes -1, which is not a class.
    """

    def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        boxes, score, label = rows(outputs, image)
        keep = at_least(score, conf)
        label = label[keep]
        if label.dtype.kind == "f":
            label = np.where(label == np.rint(label), label, -1)
        return boxes[keep].astype(np.float32), score[keep].astype(np.float32), label.astype(np.int64)

    return decode


def joined(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of several levels as one list."""
    xyxy, confidence, class_id = (np.concatenate(part) for part in zip(*parts, strict=True))
    return xyxy, confidence, class_id
