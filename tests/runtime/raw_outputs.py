"""Raw outputs of every family of heads, written from the boxes that are to come out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends import TensorSpec
from edgesparse.runtime.heads.families import Layout, cells, grid

SIZE = (64, 96)
ROWS = cells(SIZE)
"""126 predictions on the strides 8, 16 and 32."""

Array = NDArray[Any]
Outputs = dict[str, Array]


@dataclass(frozen=True)
class Box:
    """One box in the input's pixels; `row` is the prediction that holds it."""

    row: int
    xyxy: tuple[float, float, float, float]
    class_id: int
    score: float


def _scores(boxes: Sequence[Box], classes: int, rows: int = ROWS) -> Array:
    scores = np.zeros((rows, classes))
    for box in boxes:
        scores[box.row, box.class_id] = box.score
    return scores


def _xyxy(boxes: Sequence[Box], rows: int = ROWS) -> Array:
    xyxy = np.zeros((rows, 4))
    for box in boxes:
        xyxy[box.row] = box.xyxy
    return xyxy


def _centred(boxes: Sequence[Box], rows: int = ROWS) -> Array:
    xyxy = _xyxy(boxes, rows)
    return np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)


def yolov8(boxes: Sequence[Box], classes: int) -> Outputs:
    return {"output0": np.concatenate([_centred(boxes), _scores(boxes, classes)], 1).T}


def yolov5(boxes: Sequence[Box], classes: int) -> Outputs:
    """Objectness 0.9 or more; class times objectness is the score. Rows without a box have every class, no object."""
    scores = _scores(boxes, classes)
    objectness = np.where(scores.max(1) > 0, np.maximum(0.9, scores.max(1)), 0)[:, None]
    scores = np.divide(scores, objectness, out=np.ones_like(scores), where=objectness > 0)
    return {"output": np.concatenate([_centred(boxes), objectness, scores], 1)}


def yolox(boxes: Sequence[Box], classes: int) -> Outputs:
    raw = yolov5(boxes, classes)["output"]
    corner, stride = grid(SIZE, (8, 16, 32))
    there = raw[:, 4] > 0
    raw[there, :2] = (raw[:, :2] / stride - corner)[there]
    raw[there, 2:4] = np.log((raw[:, 2:4] / stride)[there])
    return {"output": raw}


def end2end(boxes: Sequence[Box], classes: int) -> Outputs:
    scores = _scores(boxes, classes)
    return {"output0": np.concatenate([_xyxy(boxes), scores.max(1)[:, None], scores.argmax(1)[:, None]], 1)}


def yolo_nas(boxes: Sequence[Box], classes: int) -> Outputs:
    return {"boxes": _xyxy(boxes), "scores": _scores(boxes, classes)}


def rtdetr(boxes: Sequence[Box], classes: int) -> Outputs:
    return {"output0": np.concatenate([_relative(boxes), _scores(boxes, classes)], 1)}


def rtdetr_end2end(boxes: Sequence[Box], classes: int) -> Outputs:
    raw = end2end(boxes, classes)["output0"]
    return {"output0": np.concatenate([_relative(boxes), raw[:, 4:]], 1)}


def rtdetr_logits(boxes: Sequence[Box], classes: int) -> Outputs:
    scores = np.clip(_scores(boxes, classes), 1e-9, 1 - 1e-9)
    return {"logits": np.log(scores / (1 - scores)), "pred_boxes": _relative(boxes)}


def rtdetr_listed(boxes: Sequence[Box], classes: int) -> Outputs:
    scores = _scores(boxes, classes)
    return {"labels": scores.argmax(1), "boxes": _xyxy(boxes), "scores": scores.max(1)}


def efficient_nms(boxes: Sequence[Box], classes: int) -> Outputs:
    """What stands behind `num_dets` boxes is whatever was there: here boxes of full confidence."""
    rows = np.arange(ROWS)
    there = [box.row for box in boxes]
    order = [*there, *np.setdiff1d(rows, there)]
    scores = np.where(np.isin(rows, there), _scores(boxes, classes).max(1), 1.0)
    return {
        "num_dets": np.array([len(boxes)]),
        "det_boxes": _xyxy(boxes)[order],
        "det_scores": scores[order],
        "det_classes": _scores(boxes, classes).argmax(1)[order],
    }


def _relative(boxes: Sequence[Box]) -> Array:
    return _centred(boxes) / np.array([SIZE[1], SIZE[0]] * 2)


FAMILIES: dict[str, tuple[str, Callable[[Sequence[Box], int], Outputs]]] = {
    "yolov8": ("yolov8", yolov8),
    "yolov5": ("yolov5", yolov5),
    "yolox": ("yolox", yolox),
    "end2end": ("end2end", end2end),
    "yolo-nas": ("yolo-nas", yolo_nas),
    "rtdetr": ("rtdetr", rtdetr),
    "rtdetr, logits": ("rtdetr", rtdetr_logits),
    "rtdetr-end2end": ("rtdetr-end2end", rtdetr_end2end),
    "rtdetr, listed": ("rtdetr", rtdetr_listed),
    "efficient-nms": ("efficient-nms", efficient_nms),
}
"""Layout -> (head, what writes it)."""

MULTI = ("yolov8", "yolov5", "yolox", "yolo-nas", "rtdetr", "rtdetr, logits")
"""Those that give a score a class."""

WHOLE = {"num_dets": "int32", "det_classes": "int32", "labels": "int64"}


def batch(family: str, images: Sequence[Sequence[Box]], classes: int, dtype: str) -> tuple[Layout, list[Array]]:
    """The layout and the outputs for these images' boxes."""
    encoded = [FAMILIES[family][1](boxes, classes) for boxes in images]
    arrays = {name: np.stack([e[name] for e in encoded]).astype(WHOLE.get(name, dtype)) for name in encoded[0]}
    specs = tuple(TensorSpec(name, array.shape, array.dtype.name) for name, array in arrays.items())
    return Layout(specs, SIZE), list(arrays.values())
