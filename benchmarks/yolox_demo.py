"""Pre- and post-processing as in YOLOX's ONNX demo: plain OpenCV and NumPy, to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

SIZE = (416, 416)
CONF, IOU = 0.1, 0.45
"""The demo's thresholds, used for both."""
STRIDES = (8, 16, 32)


def demo_preprocess(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """As YOLOX's ONNX demo does: a fresh gray canvas, resize, paste, transpose, contiguous float32."""
    canvas = np.ones((*SIZE, 3), np.uint8) * 114
    ratio = min(SIZE[0] / image.shape[0], SIZE[1] / image.shape[1])
    new = (int(image.shape[1] * ratio), int(image.shape[0] * ratio))
    resized = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    canvas[: new[1], : new[0]] = resized
    return np.ascontiguousarray(canvas.transpose(2, 0, 1), dtype=np.float32)[None], ratio


def demo_postprocess(raw: NDArray[np.float32], ratio: float) -> NDArray[Any] | None:
    """As YOLOX's ONNX demo does: grids built again, every box decoded, then NMS per class in NumPy."""
    grids, strides = [], []
    for stride in STRIDES:
        xs, ys = np.meshgrid(np.arange(SIZE[1] // stride), np.arange(SIZE[0] // stride))
        cells = np.stack((xs, ys), 2).reshape(1, -1, 2)
        grids.append(cells)
        strides.append(np.full((*cells.shape[:2], 1), stride))
    grid, step = np.concatenate(grids, 1), np.concatenate(strides, 1)
    raw[..., :2] = (raw[..., :2] + grid) * step
    raw[..., 2:4] = np.exp(raw[..., 2:4]) * step
    boxes, scores = raw[0, :, :4], raw[0, :, 4:5] * raw[0, :, 5:]
    corners = np.ones_like(boxes)
    corners[:, 0] = boxes[:, 0] - boxes[:, 2] / 2.0
    corners[:, 1] = boxes[:, 1] - boxes[:, 3] / 2.0
    corners[:, 2] = boxes[:, 0] + boxes[:, 2] / 2.0
    corners[:, 3] = boxes[:, 1] + boxes[:, 3] / 2.0
    corners /= ratio
    frames = []
    for label in range(scores.shape[1]):
        mask = scores[:, label] > CONF
        if mask.any():
            kept = demo_nms(corners[mask], scores[mask, label])
            rows = np.concatenate([corners[mask][kept], scores[mask, label][kept, None]], 1)
            frames.append(np.concatenate([rows, np.full((len(kept), 1), label)], 1))
    return np.concatenate(frames, 0) if frames else None


def demo_nms(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> list[int]:
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order, keep = scores.argsort()[::-1], []
    while order.size > 0:
        i = order[0]
        keep.append(int(i))
        w = np.maximum(0.0, np.minimum(x2[i], x2[order[1:]]) - np.maximum(x1[i], x1[order[1:]]) + 1)
        h = np.maximum(0.0, np.minimum(y2[i], y2[order[1:]]) - np.maximum(y1[i], y1[order[1:]]) + 1)
        overlap = w * h / (areas[i] + areas[order[1:]] - w * h)
        order = order[np.where(overlap <= IOU)[0] + 1]
    return keep


def demo_session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Otherwise its idle threads spin on the cores that the other session needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options)
