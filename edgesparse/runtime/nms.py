"""Non-maximum suppression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.boxes import FEW as FEW

MAX_CANDIDATES = 30_000
"""Only this many of the best boxes take part, as in the detectors' own code. Camera frames have far fewer."""
MANY = 128
"""With more boxes, blocks of this many are compared with the boxes kept so far, until `max_det` are kept."""
EMPTY = float(np.finfo(np.float64).eps)
"""Combined area up to which two boxes count as empty, as in OpenCV."""


def nms(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    iou: float,
    max_det: int,
    agnostic: bool = False,
) -> NDArray[np.intp]:
    """Suppress greedily: indices of the boxes to keep, most confident first, at most `max_det`.

    A box is suppressed if a more confident one of its class (of any class if `agnostic`) overlaps it by more than `iou`
    (intersection over union). Boxes [n, 4], confidence [n], class_id [n]; all must be boxes (boxes.py).
    """
    if len(confidence) < 2:
        return np.arange(len(confidence))[:max_det]
    if len(confidence) <= FEW:
        return np.array(_few(xyxy, confidence, class_id, iou, agnostic)[:max_det], np.intp)
    if len(confidence) > MANY:
        rank = np.argsort(-confidence, kind="stable")[:MAX_CANDIDATES]
        return rank[_in_blocks(_apart(xyxy.take(rank, 0), class_id.take(rank), agnostic), iou, max_det)]
    return _opencv(_apart(xyxy, class_id, agnostic), confidence, iou)[:max_det]


def _apart(xyxy: NDArray[np.float32], class_id: NDArray[np.int64], agnostic: bool) -> NDArray[np.float64]:
    """Boxes in float64, which keeps them exact, with classes shifted apart so that they cannot overlap."""
    boxes = xyxy.astype(np.float64)
    if not agnostic:
        boxes += class_id[:, None] * (2.0 * max(float(boxes.max()), -float(boxes.min())) + 1.0)
    return boxes


def _opencv(xyxy: NDArray[np.float64], confidence: NDArray[np.float32], iou: float) -> NDArray[np.intp]:
    """Indices of the boxes to keep, regardless of class; changes `xyxy`."""
    xyxy[:, 2:] -= xyxy[:, :2]
    # OpenCV converts lists faster than arrays.
    kept = cv2.dnn.NMSBoxes(xyxy.tolist(), confidence, 0.0, iou)  # type: ignore[arg-type]
    return np.asarray(kept, np.intp).ravel()


def _in_blocks(xyxy: NDArray[np.float64], iou: float, max_det: int) -> list[int]:
    """Indices of the boxes to keep, of boxes sorted by confidence.

    A box depends only on more confident ones, so boxes after the last one that is kept are not examined.
    """
    kept: list[int] = []
    for start in range(0, len(xyxy), MANY):
        index = np.arange(start, min(start + MANY, len(xyxy)))
        if kept:
            index = index[~_overlap(xyxy[kept], xyxy[index], iou).any(axis=0)]
        suppresses = _overlap(xyxy[index], xyxy[index], iou)
        suppressed = np.zeros(len(index), np.bool_)
        for i, place in enumerate(index.tolist()):
            if not suppressed[i]:
                kept.append(place)
                suppressed |= suppresses[i]
        if len(kept) >= max_det:
            break
    return kept[:max_det]


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64], iou: float) -> NDArray[np.bool_]:
    """Whether boxes [n, 4] and [m, 4] overlap by more than `iou`: [n, m]."""
    a, b = first.T[:, :, None], second.T[:, None]
    shared = np.minimum(a[2], b[2])
    shared -= np.maximum(a[0], b[0])
    np.maximum(shared, 0, out=shared)
    height = np.minimum(a[3], b[3])
    height -= np.maximum(a[1], b[1])
    shared *= height  # not positive where either is not
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    more: NDArray[np.bool_] = shared > areas * (iou / (1 + iou))
    if iou < 1 and areas.min(initial=1.0) <= EMPTY:  # two boxes without an area cover each other
        more |= areas <= EMPTY
    return more


def _few(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    iou: float,
    agnostic: bool,
) -> list[int]:
    """The same, box by box without OpenCV."""
    boxes, scores = xyxy.tolist(), confidence.tolist()
    classes = [0] * len(scores) if agnostic else class_id.tolist()
    kept: list[int] = []
    rivals: dict[int, list[tuple[float, float, float, float, float]]] = {}
    for i in sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:MAX_CANDIDATES]:
        left, top, right, bottom = boxes[i]
        area = (right - left) * (bottom - top)
        same = rivals.setdefault(classes[i], [])
        for x1, y1, x2, y2, other in same:
            width = (right if right < x2 else x2) - (left if left > x1 else x1)
            if width <= 0 and area > EMPTY:
                continue
            height = (bottom if bottom < y2 else y2) - (top if top > y1 else y1)
            shared = width * height if width > 0 and height > 0 else 0.0
            both = area + other
            # Two boxes without an area cover each other.
            if (shared / (both - shared) if both > EMPTY else 1.0) > iou:
                break
        else:
            kept.append(i)
            same.append((left, top, right, bottom, area))
    return kept
