"""Non-maximum suppression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_CANDIDATES = 30_000
"""Only this many of the best boxes take part, as in the detectors' own code. Frames of cameras have far fewer."""
FEW = 12
"""Up to this many boxes, comparing them here is faster than a call of OpenCV (benchmarks/nms.py)."""
MANY = 128
"""With more boxes, each class is suppressed by itself, as the cost grows with the square of their number."""
EMPTY = float(np.finfo(np.float64).eps)
"""Area of two boxes up to which it counts as zero, as in OpenCV."""


def nms(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    iou: float,
    max_det: int,
    agnostic: bool = False,
) -> NDArray[np.intp]:
    """Suppress greedily: indices of the boxes to keep, most confident first, at most `max_det`.

    A box is suppressed when a more confident one of its class (of any class if `agnostic`) overlaps it by more than
    `iou` (intersection over union). Boxes [n, 4], confidence [n], class_id [n]; all must be boxes (boxes.py).
    """
    if len(confidence) < 2:
        return np.arange(len(confidence))[:max_det]
    if len(confidence) <= FEW:
        return np.array(_few(xyxy, confidence, class_id, iou, agnostic)[:max_det], np.intp)
    if len(confidence) <= MANY:
        boxes = xyxy.astype(np.float64)
        if not agnostic:
            # Classes are shifted apart so that they cannot overlap; float64 keeps the boxes exact.
            boxes += class_id[:, None] * (2.0 * float(np.abs(xyxy).max()) + 1.0)
        return _opencv(boxes, confidence, iou)[:max_det]
    rank = np.argsort(-confidence, kind="stable")[:MAX_CANDIDATES]
    groups = [rank] if agnostic else [rank[class_id[rank] == label] for label in np.unique(class_id[rank])]
    keep = np.concatenate([each[_opencv(xyxy[each].astype(np.float64), confidence[each], iou)] for each in groups])
    return keep[np.lexsort((keep, -confidence[keep]))][:max_det]


def _opencv(xyxy: NDArray[np.float64], confidence: NDArray[np.float32], iou: float) -> NDArray[np.intp]:
    """Indices of the boxes that stay, whatever their class; changes `xyxy`."""
    xyxy[:, 2:] -= xyxy[:, :2]
    # OpenCV converts lists faster than arrays.
    kept = cv2.dnn.NMSBoxes(xyxy.tolist(), confidence, 0.0, iou)  # type: ignore[arg-type]
    return np.asarray(kept, np.intp).ravel()


def _few(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    iou: float,
    agnostic: bool,
) -> list[int]:
    """The same, box by box without OpenCV."""
    boxes, classes, scores = xyxy.tolist(), class_id.tolist(), confidence.tolist()
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i])[:MAX_CANDIDATES]:
        left, top, right, bottom = boxes[i]
        area = (right - left) * (bottom - top)
        for k in kept:
            if classes[k] != classes[i] and not agnostic:
                continue
            x1, y1, x2, y2 = boxes[k]
            width = (right if right < x2 else x2) - (left if left > x1 else x1)
            height = (bottom if bottom < y2 else y2) - (top if top > y1 else y1)
            shared = width * height if width > 0 and height > 0 else 0.0
            both = area + (x2 - x1) * (y2 - y1)
            # Two boxes without an area cover each other.
            if (shared / (both - shared) if both > EMPTY else 1.0) > iou:
                break
        else:
            kept.append(i)
    return kept
