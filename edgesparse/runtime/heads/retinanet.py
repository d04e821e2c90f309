"""RetinaNet of torchvision, exported without its own decoding and NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import Candidates, Decode, Plane, Planes, Strided
from edgesparse.runtime.heads.base import IMAGENET, SHAPES, Evidence, Head, Layout, Sample
from edgesparse.runtime.heads.candidates import at_least, labeled, sigmoid
from edgesparse.runtime.heads.grid import priors, side

STRIDES = (8, 16, 32, 64, 128)
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
LARGEST = float(np.log(1000 / 16))
"""Upper limit of the predicted logarithm of a side."""
EXPORT = (
    "torch.onnx.export of a module that returns model.head([*model.backbone(images).values()]): cls_logits, "
    "bbox_regression"
)


def shifts(size: tuple[int, int], level: int) -> NDArray[np.float32]:
    """Centers of the anchors of a level's cells, [cells, 2] as x, y in pixels."""
    rows, columns = (side(length, STRIDES[level]) for length in size)
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    return np.stack([x * (size[1] // columns), y * (size[0] // rows)], 1).astype(np.float32)


def anchor_sides(level: int) -> NDArray[np.float32]:
    """Half width and height of a cell's nine anchors, [9, 2]: three sizes for each aspect ratio."""
    base = SIZES[level]
    sides = np.array([base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))], np.float32)
    heights = np.sqrt(np.array(RATIOS, np.float32))
    width, height = (1 / heights)[:, None] * sides, heights[:, None] * sides
    return np.rint(np.stack([width.ravel(), height.ravel()], 1) / 2).astype(np.float32)


class RetinaNet(Head):
    """Nine anchors per cell on five levels. In the file, class 0 is the background, which no box has."""

    outputs = "two outputs, cls_logits [B, N, 1 + C] and bbox_regression [B, N, 4], nine anchors per cell"
    export = EXPORT
    source = "Lin et al., Focal Loss, and https://github.com/pytorch/vision, torchvision/models/detection/retinanet.py"
    convention = IMAGENET.model_copy(update={"letterbox": "top-left", "pad": 0})
    coco_ids = range(1, 91)

    def fits(self, layout: Layout) -> bool:
        shapes, boxes = layout.shapes, layout.boxes()
        return len(shapes) == 2 and shapes[1 - boxes][:2] == shapes[boxes][:2] == (shapes[0][0], _count(layout.size))

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        if not self.can_read(layout):
            return None
        scores = None if sample is None else sample[1 - layout.boxes()]
        if scores is not None and scores.min() >= 0 and scores.max() <= 1:
            return None
        return Evidence(SHAPES, f"boxes and logits for nine anchors in each cell of the strides {STRIDES}")

    def classes(self, layout: Layout) -> int:
        return layout.shapes[1 - layout.boxes()][2] - 1

    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        boxes = layout.boxes()
        center, half = _anchors(layout.size)

        def decode(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
            logits = outputs[1 - boxes][image][:, 1:]
            keep = at_least(sigmoid(logits.max(axis=1).astype(np.float32)), conf)
            delta = outputs[boxes][image][keep].astype(np.float32)
            middle = center[keep] + delta[:, :2] * (2 * half[keep])
            reach = half[keep] * np.exp(np.minimum(delta[:, 2:], LARGEST))
            scores = sigmoid(logits[keep].astype(np.float32))
            return labeled(np.concatenate([middle - reach, middle + reach], 1), scores, conf, multi_label)

        return decode

    def strided(self, layout: Layout) -> Strided:
        boxes, classes, (center, half) = layout.boxes(), self.classes(layout), _anchors(layout.size)
        planes = Planes(len(center), Plane(boxes, 4, 1), Plane(1 - boxes, 1 + classes, 1, first=1))
        table = priors(center, 2 * half, 2 * half)
        return Strided(classes, (planes,), "exp", "logits", exponent=(1, LARGEST), priors=table)


def _anchors(size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centers and half sides of all anchors [N, 2], level by level and cell by cell."""
    centers, halves = [], []
    for level in range(len(STRIDES)):
        center, half = shifts(size, level), anchor_sides(level)
        centers.append(np.repeat(center, len(half), axis=0))
        halves.append(np.tile(half, (len(center), 1)))
    return np.concatenate(centers), np.concatenate(halves)


def _count(size: tuple[int, int]) -> int:
    return 9 * sum(side(size[0], stride) * side(size[1], stride) for stride in STRIDES)
