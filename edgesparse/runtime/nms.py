"""Non-maximum suppression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_CANDIDATES = 30_000
"""Only the best so many boxes take part, as in the detectors' own code; no camera's frame comes near."""


def nms(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    iou: float,
    max_det: int,
    agnostic: bool = False,
) -> NDArray[np.intp]:
    """Greedy suppression: indices of the boxes that stay, most confident first, at most `max_det`.

    A box goes when a better one of its class (of any class if `agnostic`) overlaps it by more than `iou` (intersection
    over union). Boxes [n, 4], confidence [n], class_id [n].
    """
    if len(confidence) < 2:
        return np.arange(len(confidence))[:max_det]
    boxes = xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    if not agnostic:
        # Classes are moved apart so that they cannot overlap; float64 keeps the boxes exact.
        boxes[:, :2] += class_id[:, None] * (2.0 * float(np.abs(xyxy).max()) + 1.0)
    kept = cv2.dnn.NMSBoxes(boxes, confidence, 0.0, iou, top_k=MAX_CANDIDATES)  # type: ignore[arg-type]
    return np.asarray(kept, np.intp).ravel()[:max_det]
