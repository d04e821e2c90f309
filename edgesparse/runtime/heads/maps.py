"""Detectors whose outputs are the maps of their last convolutions: nothing is decoded in the engine.

An engine without decoding has fewer kernels, and only cells that pass the threshold are decoded. `slim` writes such
models. Maps of one size belong to one stride; their channels, in the order of the outputs, are one row per cell.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import BoxKind, Candidates, Decode, Plane, Planes, ScoreKind, Strided
from edgesparse.runtime.heads.base import CENTERED, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, joined, labeled, sigmoid
from edgesparse.runtime.heads.fastestdet import CLASS_POWER, OBJECT_POWER, FastestDet
from edgesparse.runtime.heads.grid import grid, priors
from edgesparse.runtime.heads.nanodet import BINS, NanoDet
from edgesparse.runtime.heads.yolov5 import FIRST_CLASS
from edgesparse.runtime.heads.yolox import Yolox

Floats = NDArray[np.float32]
YOLOV8_BINS = 16
_EXPORT = "edgesparse slim MODEL.onnx -o OUT.onnx"


@dataclass(frozen=True)
class Level:
    """The maps of one stride. `parts`: index and channels of each output. `corners` [cells, 2]: in cells (x, y)."""

    stride: int
    parts: tuple[tuple[int, int], ...]
    corners: Floats

    @property
    def channels(self) -> int:
        return sum(count for _, count in self.parts)

    def rows(self, outputs: Sequence[NDArray[Any]], image: int, kept: NDArray[np.intp] | None = None) -> Floats:
        """Values [channels, cells] in float32 of all cells, or of those in `kept`."""
        flat = [outputs[i][image].reshape(count, -1) for i, count in self.parts]
        chosen = flat if kept is None else [part[:, kept] for part in flat]
        return np.asarray(np.concatenate(chosen), np.float32)

    def plane(self, first: int, count: int) -> Plane:
        """Where channels `first` to `first + count` are. Raises LookupError if one output does not hold them all."""
        at = 0
        for i, size in self.parts:
            if at <= first and first + count <= at + size:
                return Plane(i, row=1, step=len(self.corners), first=(first - at) * len(self.corners))
            at += size
        raise LookupError(f"channels {first} to {first + count} are in several outputs")

    def channel(self, outputs: Sequence[NDArray[Any]], image: int, first: int, count: int) -> Floats:
        """Channels `first` to `first + count` of all cells."""
        at = 0
        for i, size in self.parts:
            if at <= first and first + count <= at + size:  # in one map: no copy
                part = outputs[i][image].reshape(size, -1)[first - at : first - at + count]
                return np.asarray(part, np.float32)
            at += size
        return self.rows(outputs, image)[first : first + count]


def levels(layout: Layout) -> tuple[Level, ...]:
    """The levels of a network's maps, finest stride first. Raises LookupError if its outputs are not such maps."""
    by_size: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for i, shape in enumerate(layout.shapes):
        if len(shape) != 4:
            raise LookupError("needed maps [B, channels, H / stride, W / stride]")
        by_size.setdefault(tuple(shape[2:]), []).append((i, shape[1]))
    result = []
    for (rows, columns), parts in sorted(by_size.items(), reverse=True):
        stride = layout.size[0] // rows if rows else 0
        if stride < 2 or (rows * stride, columns * stride) != layout.size:
            raise LookupError(f"needed maps of a whole stride, found {rows}x{columns}")
        result.append(Level(stride, tuple(parts), grid(layout.size, (stride,))[0]))
    if len({level.channels for level in result}) != 1:
        raise LookupError("needed as many channels at every stride")
    return tuple(result)


class Maps(Head):
    """What families of maps share: cells are filtered by score, and only rows of those that pass are read."""

    export = _EXPORT
    strides: tuple[tuple[int, ...], ...] = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))

    def fits(self, layout: Layout) -> bool:
        every = levels(layout)
        return tuple(level.stride for level in every) in self.strides and self.first_class(every[0]) < every[0].channels

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        return None  # other families have such maps too: `slim` writes the head's name into the file

    def classes(self, layout: Layout) -> int:
        level = levels(layout)[0]
        return level.channels - self.first_class(level) - self.after_classes

    after_classes = 0
    """Number of channels after the classes."""
    box_kind: BoxKind
    score_kind: ScoreKind = "logits"
    bins = 0
    """Number of logits per side of a box, if it has distance bins."""
    powers = (1.0, 1.0)
    """Of objectness and class, in the confidence."""
    objectness: int | None = None
    """The channel of the objectness."""
    point = 0.0
    """Where in its cell a prediction is: 0 at its corner, 0.5 in its center."""

    def first_box(self, level: Level) -> int:
        """The first channel of the box."""
        return 0

    def priors(self, level: Level, size: tuple[int, int]) -> Floats:
        """The priors [cells, 6] of a level; `size`: of the input (height, width)."""
        return priors((level.corners + self.point) * level.stride, level.stride, level.stride)

    def strided(self, layout: Layout) -> Strided | None:
        every, classes = levels(layout), self.classes(layout)
        try:
            planes = tuple(self._planes(level, classes) for level in every)
        except LookupError:
            return None
        table = np.concatenate([self.priors(level, layout.size) for level in every])
        return Strided(classes, planes, self.box_kind, self.score_kind, self.bins, self.powers, priors=table)

    def _planes(self, level: Level, classes: int) -> Planes:
        boxes = level.plane(self.first_box(level), 4 * (self.bins or 1))
        scores = level.plane(self.first_class(level), classes)
        objectness = None if self.objectness is None else level.plane(self.objectness, 1)
        return Planes(len(level.corners), boxes, scores, objectness)

    @abstractmethod
    def first_class(self, level: Level) -> int:
        """The channel of the first class."""

    @abstractmethod
    def best(self, level: Level, outputs: Sequence[NDArray[Any]], image: int) -> Floats:
        """An upper bound [cells] of each cell's confidence."""

    @abstractmethod
    def scores(self, level: Level, row: Floats) -> Floats:
        """Confidences [n, C] of rows [n, channels]."""

    @abstractmethod
    def boxes(self, level: Level, row: Floats, corners: Floats, size: tuple[int, int]) -> Floats:
        """xyxy [n, 4] in pixels of rows [n, channels] at `corners` [n, 2]; `size`: of the input (height, width)."""

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        all_levels = levels(layout)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            parts = []
            for level in all_levels:
                kept = at_least(self.best(level, outputs, image), conf)
                row = level.rows(outputs, image, kept).T
                boxes = self.boxes(level, row, level.corners[kept], layout.size)
                parts.append(labeled(boxes, self.scores(level, row), conf, multi_label))
            return joined(parts)

        return decode


def _distances(bins: Floats) -> Floats:
    """The expected distances [n, 4] of logits [n, 4, bins] over 0, 1, 2, ..."""
    weights = np.exp(bins - bins.max(axis=2, keepdims=True))
    expected: Floats = (weights @ np.arange(bins.shape[2], dtype=np.float32)) / weights.sum(axis=2)
    return expected


def _around(corners: Floats, distance: Floats, stride: int) -> Floats:
    """Boxes whose sides are `distance` [n, 4] strides from the center of their cells."""
    center = corners + np.float32(0.5)
    return np.concatenate([center - distance[:, :2], center + distance[:, 2:]], 1) * np.float32(stride)


class YoloV8Maps(Maps):
    """YOLOv8's maps: 16 bins for the distance of each side, then a logit per class."""

    outputs = "maps [B, 64 + C, H / stride, W / stride], or bins and classes apart, before softmax and sigmoid"
    source = "Ultralytics, https://docs.ultralytics.com/models/yolov8; Li et al., Generalized Focal Loss"
    convention = CENTERED
    box_kind, bins = "bins", YOLOV8_BINS
    point = 0.5

    def first_class(self, level: Level) -> int:
        return 4 * YOLOV8_BINS

    def best(self, level: Level, outputs: Sequence[NDArray[Any]], image: int) -> Floats:
        first = self.first_class(level)
        return sigmoid(level.channel(outputs, image, first, level.channels - first).max(axis=0))

    def scores(self, level: Level, row: Floats) -> Floats:
        return sigmoid(row[:, self.first_class(level) :])

    def boxes(self, level: Level, row: Floats, corners: Floats, size: tuple[int, int]) -> Floats:
        bins = row[:, : 4 * YOLOV8_BINS].reshape(-1, 4, YOLOV8_BINS)
        return _around(corners, _distances(bins), level.stride)


class NanoDetMaps(Maps):
    """NanoDet's maps: a logit per class, then 8 bins for the distance of each side."""

    outputs = "maps [B, C + 32, H / stride, W / stride], classes before the sigmoid, then distance bins"
    source = NanoDet.source
    convention = NanoDet.convention
    box_kind, bins = "bins", BINS
    after_classes = 4 * BINS
    point = 0.5

    def first_class(self, level: Level) -> int:
        return 0

    def first_box(self, level: Level) -> int:
        return level.channels - 4 * BINS

    def best(self, level: Level, outputs: Sequence[NDArray[Any]], image: int) -> Floats:
        return sigmoid(level.channel(outputs, image, 0, level.channels - 4 * BINS).max(axis=0))

    def scores(self, level: Level, row: Floats) -> Floats:
        return sigmoid(row[:, : -4 * BINS])

    def boxes(self, level: Level, row: Floats, corners: Floats, size: tuple[int, int]) -> Floats:
        return _around(corners, _distances(row[:, -4 * BINS :].reshape(-1, 4, BINS)), level.stride)


class YoloxMaps(Maps):
    """YOLOX's maps: offsets on the grid, objectness and classes as logits."""

    outputs = "maps [B, 5 + C, H / stride, W / stride]: offsets on the grid, objectness and classes before the sigmoid"
    source = Yolox.source
    convention = Yolox.convention
    box_kind = "exp"
    objectness = 4

    def first_class(self, level: Level) -> int:
        return FIRST_CLASS

    def best(self, level: Level, outputs: Sequence[NDArray[Any]], image: int) -> Floats:
        return sigmoid(level.channel(outputs, image, 4, 1)[0])

    def scores(self, level: Level, row: Floats) -> Floats:
        both: Floats = sigmoid(row[:, 4:])
        return both[:, 1:] * both[:, :1]

    def boxes(self, level: Level, row: Floats, corners: Floats, size: tuple[int, int]) -> Floats:
        stride = np.float32(level.stride)
        center, half = (row[:, :2] + corners) * stride, np.exp(row[:, 2:4]) * (stride * np.float32(0.5))
        return np.concatenate([center - half, center + half], 1)


class FastestDetMaps(Maps):
    """FastestDet's map before the sigmoid of its objectness and the softmax of its classes."""

    outputs = "one map [B, 5 + C, H / 16, W / 16]: objectness, box offsets and classes before sigmoid and softmax"
    source = FastestDet.source
    convention = FastestDet.convention
    strides = ((16,),)
    box_kind, score_kind = "tanh-sigmoid", "softmax"
    powers = OBJECT_POWER, CLASS_POWER
    objectness = 0

    def first_class(self, level: Level) -> int:
        return FIRST_CLASS

    def first_box(self, level: Level) -> int:
        return 1

    def priors(self, level: Level, size: tuple[int, int]) -> Floats:
        return priors(level.corners * level.stride, level.stride, size[::-1])

    def best(self, level: Level, outputs: Sequence[NDArray[Any]], image: int) -> Floats:
        objectness: Floats = sigmoid(level.channel(outputs, image, 0, 1)[0])
        return objectness ** np.float32(OBJECT_POWER)

    def scores(self, level: Level, row: Floats) -> Floats:
        classes = row[:, FIRST_CLASS:]
        weights = np.exp(classes - classes.max(axis=1, keepdims=True))
        share: Floats = weights / weights.sum(axis=1, keepdims=True)
        objectness: Floats = sigmoid(row[:, :1])
        return objectness ** np.float32(OBJECT_POWER) * share ** np.float32(CLASS_POWER)

    def boxes(self, level: Level, row: Floats, corners: Floats, size: tuple[int, int]) -> Floats:
        center = (np.tanh(row[:, 1:3]) + corners) * np.float32(level.stride)
        half = sigmoid(row[:, 3:FIRST_CLASS]) * np.array(size[::-1], np.float32) * np.float32(0.5)
        return np.concatenate([center - half, center + half], 1)
