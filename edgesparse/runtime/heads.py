"""One function a family of detectors: from raw outputs to boxes, scores and classes.

To add a family, write a function (layout, conf) -> Decode here, and give it a row in HEADS and a rule in decode.choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.config import InputSpec

Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""xyxy [n, 4] in the input's pixels, confidence [n], class_id [n]."""

Decode = Callable[[Sequence[NDArray[Any]], int], Candidates]
"""(raw outputs in the model's order, which picture of the batch) -> Candidates with at least the wanted confidence."""


@dataclass(frozen=True)
class Layout:
    """What a head is built from: the outputs' specs, and the input's (height, width)."""

    outputs: tuple[TensorSpec, ...]
    size: tuple[int, int]

    def index(self, *, last: int | None = None, ndim: int | None = None, name: str = "") -> int:
        """Position of the first output with this last dimension, number of dimensions, or part of a name."""
        for i, spec in enumerate(self.outputs):
            if (last is not None and spec.shape[-1] != last) or (ndim is not None and len(spec.shape) != ndim):
                continue
            if name in spec.name:
                return i
        raise LookupError(f"no output with last={last}, ndim={ndim}, name={name!r}")


@dataclass(frozen=True)
class Head:
    """A family: how to decode it, whether its boxes still need NMS, how many classes a layout has, its input."""

    decode: Callable[[Layout, float], Decode]
    nms: bool
    classes: Callable[[Layout], int | None]
    """None where the outputs do not tell."""
    convention: InputSpec


def cells(size: tuple[int, int], strides: Sequence[int] = (8, 16, 32)) -> int:
    """Grid cells over all strides."""
    return sum((size[0] // s) * (size[1] // s) for s in strides)


def strides_of(count: int, size: tuple[int, int]) -> tuple[int, ...] | None:
    """The strides whose cells add up to `count`, if any of the usual sets does."""
    return next((s for s in ((8, 16, 32), (8, 16, 32, 64), (16, 32), (32,)) if cells(size, s) == count), None)


def grid(size: tuple[int, int], strides: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Upper left corners [cells, 2] of the grid's cells, in cells, and the stride [cells, 1] of each."""
    corners, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        corners.append(np.stack([columns, rows], -1).reshape(-1, 2))
        steps.append(np.full((rows.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(steps).astype(np.float32)


def yolov8(layout: Layout, conf: float) -> Decode:
    """YOLOv8, v9, v11, v12: [B, 4 + C, N]; centre and size in pixels, scores after the sigmoid."""
    best = np.empty(layout.outputs[0].shape[2], np.float32)

    def decode(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        raw = outputs[0][picture]
        np.max(raw[4:], axis=0, out=best)
        keep = np.flatnonzero(best >= conf)
        return _corners(raw[:4, keep].T), best[keep], raw[4:, keep].argmax(axis=0)

    return decode


def yolov5(layout: Layout, conf: float) -> Decode:
    """YOLOv5, v6, v7, YOLOX decoded: [B, N, 5 + C]; centre and size in pixels, objectness, classes, sigmoid done."""

    def decode(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        rows, score, class_id, _ = _objects(outputs[0][picture], conf)
        return _corners(rows[:, :4]), score, class_id

    return decode


def yolox(layout: Layout, conf: float) -> Decode:
    """YOLOX without `--decode_in_inference`: [B, N, 5 + C] as yolov5's, but on the grid.

    xy = (xy + cell) * stride, wh = exp(wh) * stride.
    Source: Ge et al., YOLOX: Exceeding YOLO Series in 2021, and the layout of its ONNX export.
    """
    strides = strides_of(layout.outputs[0].shape[1], layout.size)
    corner, stride = grid(layout.size, strides or (8, 16, 32))

    def decode(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        rows, score, class_id, keep = _objects(outputs[0][picture], conf)
        step = stride[keep]
        centre, size = (rows[:, :2] + corner[keep]) * step, np.exp(rows[:, 2:4]) * step
        return _corners(np.concatenate([centre, size], 1)), score, class_id

    return decode


def end2end(layout: Layout, conf: float) -> Decode:
    """YOLOv10 and other exports that suppress by themselves: [B, N, 6] with xyxy in pixels, score, class."""

    def decode(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        raw = outputs[0][picture]
        rows = raw[raw[:, 4] >= conf]
        return rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64)

    return decode


def yolo_nas(layout: Layout, conf: float) -> Decode:
    """YOLO-NAS: boxes [B, N, 4] as xyxy in pixels, and scores [B, N, C]."""
    boxes = layout.index(last=4)

    def decode(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        score, class_id, keep = _best(outputs[1 - boxes][picture], conf)
        return outputs[boxes][picture][keep].astype(np.float32), score, class_id

    return decode


def rtdetr(layout: Layout, conf: float) -> Decode:
    """RT-DETR and its kin, in the three layouts that their exporters write (boxes are relative but for the third):

    one output [B, N, 4 + C] (centre, size, scores); two, `pred_boxes` [B, N, 4] and `logits` [B, N, C] before the
    sigmoid; three, `labels` [B, N], `boxes` [B, N, 4] as xyxy in pixels, `scores` [B, N].
    """
    relative = np.array([layout.size[1], layout.size[0]] * 2, np.float32)

    def one(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        raw = outputs[0][picture]
        score, class_id, keep = _best(raw[:, 4:], conf)
        return _corners(raw[keep, :4] * relative), score, class_id

    if len(layout.outputs) == 1:
        return one
    if len(layout.outputs) == 3:
        label, box, score = (layout.index(name=name) for name in ("label", "box", "score"))
        return _listed(lambda outputs, b: (outputs[box][b], outputs[score][b], outputs[label][b]), conf)
    boxes = layout.index(last=4, name="box")
    logit = -np.log(1 / np.clip(conf, 1e-6, 1 - 1e-6) - 1)

    def two(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        score, class_id, keep = _best(outputs[1 - boxes][picture], logit)
        confidence = np.float32(1) / (np.float32(1) + np.exp(-score))
        return _corners(outputs[boxes][picture][keep] * relative), confidence.astype(np.float32), class_id

    return two


def efficient_nms(layout: Layout, conf: float) -> Decode:
    """TensorRT's EfficientNMS: count [B, 1], boxes [B, K, 4] as xyxy in pixels, scores [B, K], classes [B, K]."""
    count, box = layout.index(last=1), layout.index(last=4, ndim=3)
    flat = [i for i in range(4) if i not in (count, box)]
    score = next((i for i in flat if "score" in layout.outputs[i].name), flat[0])
    label = next(i for i in flat if i != score)

    def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
        n = int(outputs[count][b, 0])
        return outputs[box][b, :n], outputs[score][b, :n], outputs[label][b, :n]

    return _listed(rows, conf)


def _listed(rows: Callable[[Sequence[NDArray[Any]], int], tuple[NDArray[Any], ...]], conf: float) -> Decode:
    def decode(outputs: Sequence[NDArray[Any]], picture: int) -> Candidates:
        boxes, score, class_id = rows(outputs, picture)
        keep = score >= conf
        return boxes[keep].astype(np.float32), score[keep].astype(np.float32), class_id[keep].astype(np.int64)

    return decode


def _corners(centre_size: NDArray[Any]) -> NDArray[np.float32]:
    """cx, cy, w, h [n, 4] to xyxy."""
    boxes = np.empty(centre_size.shape, np.float32)
    half = centre_size[:, 2:] * 0.5
    np.subtract(centre_size[:, :2], half, out=boxes[:, :2])
    np.add(centre_size[:, :2], half, out=boxes[:, 2:])
    return boxes


def _best(scores: NDArray[Any], conf: float) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.intp]]:
    """Best score, its class, and which rows of [N, C] reach `conf`."""
    best = scores.max(axis=1)
    keep = np.flatnonzero(best >= conf)
    return best[keep].astype(np.float32), scores[keep].argmax(axis=1), keep


def _objects(
    raw: NDArray[Any], conf: float
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.int64], NDArray[np.intp]]:
    """Rows of [N, 5 + C] whose objectness times best class reaches `conf`, the product, the class, which rows.

    Looks at classes only where objectness alone suffices: the product is never larger.
    """
    keep = np.flatnonzero(raw[:, 4] >= conf)
    rows = raw[keep]
    class_id = rows[:, 5:].argmax(axis=1)
    score = rows[:, 4] * rows[np.arange(len(rows)), 5 + class_id]
    enough = score >= conf
    return rows[enough], score[enough].astype(np.float32), class_id[enough], keep[enough]


_CENTRED = InputSpec(size=(1, 1))
"""RGB 0..1, letterboxed in the centre on 114, as most trainers do; the size comes from the model."""

HEADS: dict[str, Head] = {
    "yolov5": Head(yolov5, True, lambda at: at.outputs[0].shape[2] - 5, _CENTRED),
    "yolov8": Head(yolov8, True, lambda at: at.outputs[0].shape[1] - 4, _CENTRED),
    "yolox": Head(
        yolox,
        True,
        lambda at: at.outputs[0].shape[2] - 5,
        _CENTRED.model_copy(update={"letterbox": "top-left", "colour": "bgr", "scale": 1.0}),
    ),
    "end2end": Head(end2end, False, lambda at: None, _CENTRED),
    "yolo-nas": Head(yolo_nas, True, lambda at: at.outputs[1 - at.index(last=4)].shape[2], _CENTRED),
    "rtdetr": Head(
        rtdetr,
        False,
        lambda at: (
            {1: at.outputs[0].shape[-1] - 4, 2: at.outputs[1 - at.index(last=4)].shape[-1]}.get(len(at.outputs))
            if len(at.outputs) < 3
            else None
        ),
        _CENTRED.model_copy(update={"letterbox": "stretch"}),
    ),
    "efficient-nms": Head(efficient_nms, False, lambda at: None, _CENTRED),
}
