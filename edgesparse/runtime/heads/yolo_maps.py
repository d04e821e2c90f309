"""Raw feature maps of anchor-based YOLO: v3, v4, v5 and v7 share their layout and differ in anchors and formula.

Nothing in such a file tells them apart, so a recipe names one. For other anchors, subclass one of these heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import LEVELS, BoxKind, Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import CENTERED, POSSIBLE, STRETCHED, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, joined, labeled, sigmoid
from edgesparse.runtime.heads.grid import grid, priors, side
from edgesparse.runtime.heads.yolov5 import FIRST_CLASS

Anchors = tuple[tuple[float, float], ...]
V3_ANCHORS: tuple[Anchors, ...] = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
V4_ANCHORS: tuple[Anchors, ...] = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)


class _Map(NamedTuple):
    output: int
    stride: int
    anchors: NDArray[np.float32]
    """[A, 2] width, height in pixels."""
    growth: float


class AnchorMaps(Head):
    """One map per stride, logits of x, y, width, height, objectness and classes for each anchor."""

    outputs = "three outputs [B, A * (5 + C), H, W] or [B, A, H, W, 5 + C] at strides 8, 16 and 32, before the sigmoid"
    anchors: ClassVar[tuple[Anchors, ...]] = V3_ANCHORS
    """Of strides 8, 16 and 32: (width, height) in pixels."""
    growth: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0)
    """Of strides 8, 16 and 32: how far a center reaches beyond its cell, `scale_x_y` in Darknet."""
    squared: ClassVar[bool] = False
    """Whether a side is anchor * (2 * sigmoid) ** 2 instead of anchor * exp."""

    def _maps(self, layout: Layout) -> list[_Map]:
        """In the order of the strides. Raises LookupError if a stride has no map."""
        maps = []
        for stride, anchors, growth in zip((8, 16, 32), self.anchors, self.growth, strict=True):
            size = side(layout.size[0], stride), side(layout.size[1], stride)
            fitting = [i for i, shape in enumerate(layout.shapes) if _cells(shape, len(anchors)) == size]
            if not fitting:
                raise LookupError(f"needed a map of {size[0]} x {size[1]} cells")
            maps.append(_Map(fitting[0], stride, np.array(anchors, np.float32), growth))
        return maps

    def fits(self, layout: Layout) -> bool:
        maps = self._maps(layout)
        depths = {_depth(layout.shapes[level.output], len(level.anchors)) for level in maps}
        return len(layout.outputs) == len(maps) == len({level.output for level in maps}) and len(depths) == 1

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout) or self.classes(layout) < 1:
            return None
        if sample is not None and all(raw.min() >= 0 and raw.max() <= 1 for raw in sample):
            return None
        return Evidence(POSSIBLE, "raw feature maps with anchors, which the file does not name")

    def classes(self, layout: Layout) -> int:
        level = self._maps(layout)[0]
        return _depth(layout.shapes[level.output], len(level.anchors)) - FIRST_CLASS

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        maps, depth = self._maps(layout), self.classes(layout) + FIRST_CLASS
        cells = [grid(layout.size, (level.stride,))[0] for level in maps]

        def boxes(level: _Map, rows: NDArray[Any], cell: NDArray[Any], anchor: NDArray[Any]) -> NDArray[np.float32]:
            offset = (sigmoid(rows[:, :2]) - 0.5) * level.growth + 0.5
            center = (offset + cell) * level.stride
            grown = 4 * sigmoid(rows[:, 2:4]) ** 2 if self.squared else np.exp(rows[:, 2:4])
            half = grown * anchor * 0.5
            return np.concatenate([center - half, center + half], 1).astype(np.float32)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            results = []
            for level, cell in zip(maps, cells, strict=True):
                rows = _rows(outputs[level.output][image], len(level.anchors), depth)
                keep = at_least(sigmoid(rows[:, 4].astype(np.float32)), conf)
                row = rows[keep].astype(np.float32)
                xyxy = boxes(level, row, cell[keep % len(cell)], level.anchors[keep // len(cell)])
                scores = sigmoid(row[:, FIRST_CLASS:]) * sigmoid(row[:, 4:FIRST_CLASS])
                results.append(labeled(xyxy, scores, conf, multi_label))
            return joined(results)

        return decode

    def strided(self, layout: Layout) -> Strided | None:
        maps, table = self._maps(layout), []
        planes = [part for level in maps for part in _planes(layout.shapes[level.output], level)]
        for level in maps:
            corner, step = grid(layout.size, (level.stride,))[0], level.stride * level.growth
            center = (corner + 0.5) * level.stride - 0.5 * step
            table += [priors(center, step, anchor) for anchor in level.anchors]
        if len(planes) > LEVELS:
            return None
        kind: BoxKind = "sigmoid-square" if self.squared else "sigmoid-exp"
        return Strided(self.classes(layout), tuple(planes), kind, "logits", priors=np.concatenate(table))


def _cells(shape: tuple[int, ...], anchors: int) -> tuple[int, ...] | None:
    """(rows, columns) of a map; None if the shape is not that of a map with this number of anchors."""
    if len(shape) == 5 and shape[1] == anchors:
        return shape[2:4]
    return shape[2:] if len(shape) == 4 and shape[1] % anchors == 0 else None


def _depth(shape: tuple[int, ...], anchors: int) -> int:
    """Values per anchor."""
    return shape[4] if len(shape) == 5 else shape[1] // anchors


def _planes(shape: tuple[int, ...], level: _Map) -> list[Planes]:
    """Those of a map: one with a row per anchor and cell, or one for each anchor's channels."""
    count, cells = len(level.anchors), int(np.prod(_cells(shape, len(level.anchors)) or ()))
    depth = _depth(shape, count)
    row, step = (depth, 1) if len(shape) == 5 else (1, cells)
    parts = [0] if len(shape) == 5 else [anchor * depth * cells for anchor in range(count)]
    first = (0, FIRST_CLASS, 4)
    return [
        Planes(count * cells // len(parts), *(Plane(level.output, row, step, part + k * step) for k in first))
        for part in parts
    ]


def _rows(raw: NDArray[Any], anchors: int, depth: int) -> NDArray[Any]:
    """[anchors * cells, depth] of one image's map."""
    if raw.ndim == 4:
        return raw.reshape(-1, depth)
    return raw.reshape(anchors, depth, -1).transpose(0, 2, 1).reshape(-1, depth)


class YoloV3Maps(AnchorMaps):
    """YOLOv3 of Darknet."""

    export = "python yolov3_to_onnx.py (NVIDIA's TensorRT sample), from yolov3.cfg and yolov3.weights"
    source = "Redmon and Farhadi, YOLOv3: An Incremental Improvement, section 2.1"
    convention = STRETCHED


class YoloV4Maps(AnchorMaps):
    """YOLOv4 of Darknet, whose centers reach a little beyond their cells."""

    export = "python yolo_to_onnx.py -m yolov4 (tensorrt_demos), from yolov4.cfg and yolov4.weights"
    source = "Bochkovskiy et al., YOLOv4, and https://github.com/AlexeyAB/darknet, cfg/yolov4.cfg (scale_x_y)"
    convention = STRETCHED
    anchors = V4_ANCHORS
    growth = (1.2, 1.1, 1.05)


class YoloV5Maps(AnchorMaps):
    """YOLOv5 with the anchors for COCO at 640."""

    export = "python export.py --weights best.pt --include onnx --train"
    source = "https://github.com/ultralytics/yolov5, models/yolo.py (Detect) and models/yolov5s.yaml"
    convention = CENTERED
    growth = (2.0, 2.0, 2.0)
    squared = True


class YoloV7Maps(YoloV5Maps):
    """YOLOv7 with its anchors for COCO at 640; YOLOv7-tiny has YOLOv5's."""

    export = "python export.py --weights best.pt (YOLOv7, without --grid)"
    source = "Wang et al., YOLOv7, and https://github.com/WongKinYiu/yolov7, models/yolo.py and cfg/deploy/yolov7.yaml"
    anchors = V4_ANCHORS
