"""One function a family of detectors: from raw outputs to boxes, scores and classes.

To add a family, write a function (layout, conf, multi_label) -> Decode here, and give it a row in HEADS and a rule in
decode.choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.frames import Candidates, Decode, Strided
from edgesparse.config import InputSpec


@dataclass(frozen=True)
class Layout:
    """What a head is built from: the outputs' specs, and the input's (height, width)."""

    outputs: tuple[TensorSpec, ...]
    size: tuple[int, int]

    def index(self, *, name: str = "", ndim: int = 0, last: int = 0) -> int:
        """Position of the first output with this in its name, this many dimensions, this last one; 0 is any."""
        for i, spec in enumerate(self.outputs):
            if name in spec.name and ndim in (0, len(spec.shape)) and last in (0, spec.shape[-1]):
                return i
        raise LookupError(f"no output with name={name!r}, ndim={ndim}, last={last}")

    def boxes(self) -> int:
        """Position of the boxes [B, N, 4]; where scores have four classes too, the name decides."""
        fours = [i for i, spec in enumerate(self.outputs) if len(spec.shape) == 3 and spec.shape[-1] == 4]
        named = [i for i in fours if "box" in self.outputs[i].name.lower()]
        return (named or fours)[0]


@dataclass(frozen=True)
class Head:
    """A family: how to decode it, whether its boxes still need NMS, how many classes a layout has, its input."""

    decode: Callable[[Layout, float, bool], Decode]
    """(layout, least confidence, whether a box counts once for every class that reaches it) -> Decode."""
    nms: bool
    classes: Callable[[Layout], int | None]
    """None where the outputs do not tell."""
    convention: InputSpec
    strided: Callable[[Layout], Strided | None] = lambda at: None
    """Where outputs that are large have what `decode` reads, for a GPU that does it; None where they are small."""


def cells(size: tuple[int, int], strides: Sequence[int] = (8, 16, 32)) -> int:
    """Grid cells over all strides."""
    return sum((size[0] // s) * (size[1] // s) for s in strides)


STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Of the plain detectors, of those with P6, of those with P2, of the tiny ones."""


def strides_of(count: int, size: tuple[int, int]) -> tuple[int, ...] | None:
    """The strides whose cells add up to `count`, if any of STRIDES does."""
    return next((strides for strides in STRIDES if cells(size, strides) == count), None)


def grid(size: tuple[int, int], strides: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Upper left corners [cells, 2] of the grid's cells, in cells, and the stride [cells, 1] of each."""
    corners, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        corners.append(np.stack([columns, rows], -1).reshape(-1, 2))
        steps.append(np.full((rows.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(steps).astype(np.float32)


def yolov8(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """YOLOv8, v9, v11, v12: [B, 4 + C, N]; centre and size in pixels, scores after the sigmoid."""
    best = np.empty(layout.outputs[0].shape[2], layout.outputs[0].dtype)

    def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        raw = outputs[0][image]
        np.max(raw[4:], axis=0, out=best)
        keep = np.flatnonzero(best >= conf)
        return _labelled(_corners(raw[:4, keep].T), raw[4:, keep].T, conf, multi_label)

    return decode


def yolov5(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """YOLOv5, v6, v7, YOLOX decoded: [B, N, 5 + C]; centre and size in pixels, objectness, classes, sigmoid done."""

    def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        rows = outputs[0][image]
        # A box's confidence is objectness times class, so never more than objectness.
        rows = rows[np.flatnonzero(rows[:, 4] >= conf)]
        return _labelled(_corners(rows[:, :4]), rows[:, 5:] * rows[:, 4:5], conf, multi_label)

    return decode


def yolox(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """YOLOX without `--decode_in_inference`: [B, N, 5 + C] as yolov5's, but on the grid.

    xy = (xy + cell) * stride, wh = exp(wh) * stride.
    Source: Ge et al., YOLOX: Exceeding YOLO Series in 2021, and the layout of its ONNX export.
    """
    strides = strides_of(layout.outputs[0].shape[1], layout.size)
    corner, stride = grid(layout.size, strides or (8, 16, 32))
    cell = np.concatenate([corner * stride, stride], 1)

    def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        rows = outputs[0][image]
        keep = np.flatnonzero(rows[:, 4] >= conf)
        rows, at = rows[keep], cell[keep]
        step, raw = at[:, 2:], rows[:, :4].astype(np.float32)
        centre, half = raw[:, :2] * step + at[:, :2], np.exp(raw[:, 2:]) * (step * 0.5)
        boxes = np.concatenate([centre - half, centre + half], 1)
        return _labelled(boxes, rows[:, 5:] * rows[:, 4:5], conf, multi_label)

    return decode


def end2end(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """YOLOv10 and other exports that suppress by themselves: [B, N, 6] with xyxy in pixels, score, class."""
    return _listed(lambda outputs, b: (outputs[0][b, :, :4], outputs[0][b, :, 4], outputs[0][b, :, 5]), conf)


def rtdetr_end2end(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """RT-DETR as Ultralytics writes it from 8.4 on: [B, N, 6] with centre and size, relative; score, class."""
    relative = np.array([layout.size[1], layout.size[0]] * 2, np.float32)

    def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
        raw = outputs[0][b]
        return _corners(raw[:, :4] * relative), raw[:, 4], raw[:, 5]

    return _listed(rows, conf)


def yolo_nas(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """YOLO-NAS: boxes [B, N, 4] as xyxy in pixels, and scores [B, N, C]."""
    boxes = layout.boxes()

    def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        scores = outputs[1 - boxes][image]
        keep = np.flatnonzero(scores.max(axis=1) >= conf)
        return _labelled(outputs[boxes][image][keep].astype(np.float32), scores[keep], conf, multi_label)

    return decode


def rtdetr(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """RT-DETR and its kin, in the three layouts that their exporters write (boxes are relative but for the third):

    one output [B, N, 4 + C] (centre, size, scores); two, `pred_boxes` [B, N, 4] and `logits` [B, N, C] before the
    sigmoid; three, `labels` [B, N], `boxes` [B, N, 4] as xyxy in pixels, `scores` [B, N].
    """
    if len(layout.outputs) == 3:
        label, box, score = (layout.index(name=name) for name in ("label", "box", "score"))
        return _listed(lambda outputs, b: (outputs[box][b], outputs[score][b], outputs[label][b]), conf)
    relative = np.array([layout.size[1], layout.size[0]] * 2, np.float32)
    boxes = layout.boxes() if len(layout.outputs) == 2 else 0

    def parts(outputs: Sequence[NDArray[Any]], image: int) -> tuple[NDArray[Any], NDArray[Any]]:
        if len(outputs) == 1:
            return outputs[0][image, :, :4], outputs[0][image, :, 4:]
        return outputs[boxes][image], _sigmoid(outputs[1 - boxes][image])

    def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        centre_size, scores = parts(outputs, image)
        keep = np.flatnonzero(scores.max(axis=1) >= conf)
        return _labelled(_corners(centre_size[keep] * relative), scores[keep], conf, multi_label)

    return decode


def efficient_nms(layout: Layout, conf: float, multi_label: bool = False) -> Decode:
    """TensorRT's EfficientNMS: count [B, 1], boxes [B, K, 4] as xyxy in pixels, scores [B, K], classes [B, K]."""
    count, box = layout.index(last=1, ndim=2), layout.boxes()
    flat = [i for i in range(4) if i not in (count, box)]
    score = next((i for i in flat if "score" in layout.outputs[i].name), flat[0])
    label = next(i for i in flat if i != score)

    def rows(outputs: Sequence[NDArray[Any]], b: int) -> tuple[NDArray[Any], ...]:
        n = int(outputs[count][b, 0])
        return outputs[box][b, :n], outputs[score][b, :n], outputs[label][b, :n]

    return _listed(rows, conf)


def _listed(rows: Callable[[Sequence[NDArray[Any]], int], tuple[NDArray[Any], ...]], conf: float) -> Decode:
    def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        boxes, score, class_id = rows(outputs, image)
        keep = score >= conf
        return boxes[keep].astype(np.float32), score[keep].astype(np.float32), class_id[keep].astype(np.int64)

    return decode


def _corners(centre_size: NDArray[Any]) -> NDArray[np.float32]:
    """cx, cy, w, h [n, 4] to xyxy, worked out in float32."""
    centre, half = centre_size[:, :2].astype(np.float32), centre_size[:, 2:].astype(np.float32) * 0.5
    return np.concatenate([centre - half, centre + half], 1)


def _sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """By tanh, which cannot overflow."""
    return np.tanh(logits * 0.5) * 0.5 + 0.5


def _labelled(boxes: NDArray[np.float32], scores: NDArray[Any], conf: float, multi_label: bool) -> Candidates:
    """Boxes [n, 4] with scores [n, C]: each with its best class, or once for every class that reaches `conf`."""
    if multi_label and conf <= 0:  # all there is, without looking
        count = scores.shape[1]
        class_id = np.tile(np.arange(count), len(scores))
        return np.repeat(boxes, count, axis=0), scores.reshape(-1).astype(np.float32, copy=False), class_id
    if multi_label:
        row, class_id = np.nonzero(scores >= conf)
        return boxes[row], scores[row, class_id].astype(np.float32), class_id
    class_id = scores.argmax(axis=1) if len(scores) else np.empty(0, np.int64)
    best = scores[np.arange(len(scores)), class_id].astype(np.float32, copy=False)
    enough = best >= conf
    return (boxes, best, class_id) if enough.all() else (boxes[enough], best[enough], class_id[enough])


_CENTRED = InputSpec(size=(1, 1))
"""RGB 0..1, letterboxed in the centre on 114, as most trainers do; the size comes from the model."""


def _classes_of_two(layout: Layout) -> int:
    return layout.outputs[1 - layout.boxes()].shape[-1]


def _classes_of_rtdetr(layout: Layout) -> int | None:
    if len(layout.outputs) == 1:
        return layout.outputs[0].shape[-1] - 4
    return _classes_of_two(layout) if len(layout.outputs) == 2 else None


def _columns(at: Layout) -> Strided:
    _, rows, cells = at.outputs[0].shape
    return Strided(cells, rows - 4, 1, cells, 1, cells, first_score=4 * cells)


def _rows(at: Layout) -> Strided:
    _, cells, row = at.outputs[0].shape
    return Strided(cells, row - 5, row, 1, row, 1, first_score=5, objectness=4)


def _rows_on_grid(at: Layout) -> Strided:
    strides = strides_of(at.outputs[0].shape[1], at.size) or (8, 16, 32)
    levels = tuple((at.size[0] // stride, at.size[1] // stride, stride) for stride in strides)
    return replace(_rows(at), kind="on-grid", levels=levels)


def _two_outputs(at: Layout) -> Strided:
    boxes, classes = at.boxes(), _classes_of_two(at)
    _, cells, _ = at.outputs[boxes].shape
    return Strided(cells, classes, 4, 1, classes, 1, box_output=boxes, score_output=1 - boxes, kind="corners")


_STRETCHED = _CENTRED.model_copy(update={"letterbox": "stretch"})
_YOLOX_INPUT = _CENTRED.model_copy(update={"letterbox": "top-left", "colour": "bgr", "scale": 1.0})

HEADS: dict[str, Head] = {
    "yolov5": Head(yolov5, True, lambda at: at.outputs[0].shape[2] - 5, _CENTRED, _rows),
    "yolov8": Head(yolov8, True, lambda at: at.outputs[0].shape[1] - 4, _CENTRED, _columns),
    "yolox": Head(yolox, True, lambda at: at.outputs[0].shape[2] - 5, _YOLOX_INPUT, _rows_on_grid),
    "yolox-decoded": Head(yolov5, True, lambda at: at.outputs[0].shape[2] - 5, _YOLOX_INPUT, _rows),
    "end2end": Head(end2end, False, lambda at: None, _CENTRED),
    "yolo-nas": Head(yolo_nas, True, _classes_of_two, _CENTRED, _two_outputs),
    "rtdetr": Head(rtdetr, False, _classes_of_rtdetr, _STRETCHED),
    "rtdetr-end2end": Head(rtdetr_end2end, False, lambda at: None, _STRETCHED),
    "efficient-nms": Head(efficient_nms, False, lambda at: None, _CENTRED),
}
