"""How much objects overlap: boxes, and with what else a detector reports of them: masks, rotated boxes, keypoints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime import masks, rotated
from edgesparse.runtime.detections import Detections

Floats = NDArray[np.float64]

COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""How far people place each of COCO's 17 keypoints apart, relative to the object's size
(https://cocodataset.org/#keypoints-eval)."""
FILLED = 0.53
"""Share of its box that a person fills, as Ultralytics takes it where no mask is known."""
VISIBLE = 0.5
"""Confidence from which on a keypoint counts."""


def boxes_overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> Floats:
    """Return the IoU [n, m] of boxes [n, 4] and [m, 4]; 1 for identical boxes without area."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inside = sides.clip(0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inside
    shared: Floats = np.where(union > 0, inside / np.where(union > 0, union, 1), (a == b).all(-1))
    return shared


def shapes_overlap(first: Detections, second: Detections) -> Floats:
    """Return how much n objects overlap m others, [n, m], 0..1, by what both sides report of them.

    The IoU of masks or rotated boxes; for poses, the similarity of keypoints (`keypoints_similarity`); otherwise the
    IoU of boxes. Masks and keypoints of objects whose boxes do not overlap are not compared: these get 0, as do poses
    of other numbers of keypoints.
    """
    if first.rotated is not None and second.rotated is not None:
        return rotated.overlap(first.rotated, second.rotated)
    boxes = boxes_overlap(first.xyxy, second.xyxy)
    (rows, columns), shapes = np.nonzero(boxes), np.zeros_like(boxes)
    if first.masks is not None and second.masks is not None:
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        shapes[rows, columns] = [masks.overlap(first.masks[i], second.masks[j]) for i, j in pairs]
        return shapes
    if first.keypoints is not None and second.keypoints is not None:
        if first.keypoints.shape[1:] == second.keypoints.shape[1:]:
            areas = [(d.xyxy[:, 2:] - d.xyxy[:, :2]).astype(np.float64).prod(1) for d in (first, second)]
            area = (areas[0][rows] + areas[1][columns]) / 2
            shapes[rows, columns] = keypoints_similarity(first.keypoints[rows], second.keypoints[columns], area)
        return shapes
    return boxes


def keypoints_similarity(first: NDArray[np.float32], second: NDArray[np.float32], area: Floats) -> Floats:
    """Return the object keypoint similarity [n] of poses [n, K, 3] with boxes of `area` [n]: 1 if they are the same.

    A point counts if either side is confident of it; all of them if none is. As COCO defines it
    (https://cocodataset.org/#keypoints-eval), with one sigma for all points unless there are COCO's 17, as in
    Ultralytics.
    """
    count = first.shape[1]
    sigmas = np.array(COCO_SIGMAS if count == len(COCO_SIGMAS) else [1 / count] * count)
    squares = ((first[..., :2].astype(np.float64) - second[..., :2]) ** 2).sum(-1)
    scale = np.maximum(FILLED * area, 1e-9)[:, None] * 2 * (2 * sigmas) ** 2
    counted = (first[..., 2] >= VISIBLE) | (second[..., 2] >= VISIBLE)
    counted |= ~counted.any(axis=1, keepdims=True)
    similarity: Floats = (np.exp(-squares / scale) * counted).sum(1) / counted.sum(1)
    return similarity
