"""Objects in a detector's raw outputs, for pruning without training: where they are, and their boxes and shapes with
confidences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.config import DetectorSpec
from edgesparse.model.activations import Batches, stream
from edgesparse.model.load import Model
from edgesparse.model.outputs import Read
from edgesparse.runtime.heads.base import Head, Layout
from edgesparse.runtime.heads.objects import COCO_KEYPOINTS, WithMasks, rotated_of
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.rotated import corners_of, covariance

CONFIDENCE = 0.1
"""Minimum confidence, low enough for doubtful objects, whose order among the others affects the score."""
MARGIN = 0.15
"""How far an object extends beyond its box, as a share of its sides: a box is located by its edges."""
SAMPLES = 4
"""Points per side of a box at which its mask is read."""


def object_masks(model: Model, batches: Batches, spec: DetectorSpec) -> Iterator[NDArray[np.float32]]:
    """Yield a mask [N, height, width] per batch, in the input's pixels: 1 inside detected objects, else 0."""
    head = head_of(spec.head)
    for values in stream(model, batches, [output.name for output in model.graph.output]):
        outputs = list(values.values())
        decode = head.decode(_layout(values, spec), CONFIDENCE, False)
        boxes = (decode(outputs, i)[0] for i in range(len(outputs[0])))
        yield np.stack(
            [_mask(_upright(each) if head.task == "obb" else each[:, :4], spec.input.size) for each in boxes]
        )


def box_reader(spec: DetectorSpec) -> Read | None:
    """Return a function from a batch's outputs to [places, fields + classes]: each place's box, its shape where the
    detector has masks, keypoints or angles (`_fields`), and class confidences.

    None for heads that list detections: the position in a list says nothing about the object.
    """
    head, classes = head_of(spec.head), len(spec.classes)

    def read(values: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        outputs, layout = list(values.values()), _layout(values, spec)
        decode, rows = head.decode(layout, 0.0, True), []
        prototypes = outputs[head.prototypes(layout)] if isinstance(head, WithMasks) else None
        for i in range(len(outputs[0])):
            boxes, confidence, _ = decode(outputs, i)
            fields = _fields(head, boxes[::classes], layout, None if prototypes is None else prototypes[i])
            rows.append(np.concatenate([fields, confidence.reshape(-1, classes)], 1, dtype=np.float32))
        return np.concatenate(rows)

    return read if head.per_class else None


def _fields(
    head: Head, boxes: NDArray[np.float32], layout: Layout, prototypes: NDArray[Any] | None
) -> NDArray[np.floating]:
    """Return xyxy in pixels, and x and y of keypoints or the mask inside the box. A rotated box is its center and the
    covariance of its area, which, unlike its angle, is the same after half a turn."""
    if head.task == "obb":
        rotated = rotated_of(boxes[:, :4], boxes[:, 4])
        return np.column_stack([rotated[:, :2], *covariance(rotated.astype(np.float64))])
    if head.task == "pose":
        points = boxes[:, 4:].reshape(len(boxes), *(layout.keypoints or COCO_KEYPOINTS))
        return np.concatenate([boxes[:, :4], points[..., :2].reshape(len(boxes), -1)], 1)
    if prototypes is not None:
        return np.concatenate([boxes[:, :4], _mask_samples(boxes, prototypes, layout.size)], 1)
    return boxes[:, :4]


def _mask_samples(boxes: NDArray[np.float32], prototypes: NDArray[Any], size: tuple[int, int]) -> NDArray[np.floating]:
    """Return each mask at SAMPLES x SAMPLES points of its box: -1 outside the object to 1 inside, 0 at its edge."""
    count, height, width = prototypes.shape
    shares = (np.arange(SAMPLES, dtype=np.float32) + 0.5) / SAMPLES
    x, y = (boxes[:, i : i + 1] + (boxes[:, i + 2 : i + 3] - boxes[:, i : i + 1]) * shares for i in (0, 1))
    column = np.clip(x * width / size[1], 0, width - 1).astype(np.intp)
    row = np.clip(y * height / size[0], 0, height - 1).astype(np.intp)
    values = prototypes.reshape(count, -1)[:, row[:, :, None] * width + column[:, None, :]]
    logits: NDArray[np.floating] = (boxes[:, 4:].T[:, :, None, None] * values).sum(0)
    return np.tanh(logits.reshape(len(boxes), -1) / 2)


def _upright(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The upright boxes around rotated ones, [n, 4]."""
    corners = corners_of(rotated_of(boxes[:, :4], boxes[:, 4]))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], 1)


def _layout(values: Mapping[str, NDArray[Any]], spec: DetectorSpec) -> Layout:
    specs = tuple(TensorSpec(name, value.shape, str(value.dtype)) for name, value in values.items())
    return Layout(specs, spec.input.size, spec.keypoints)


def _mask(xyxy: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    sides = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
    wide = xyxy + sides * np.float32(MARGIN) * np.array([-1, -1, 1, 1], np.float32)
    limits = np.array([size[1], size[0]] * 2)
    marked = np.zeros(size, np.float32)
    for left, top, right, bottom in np.clip(np.rint(wide), 0, limits).astype(np.intp):
        marked[top:bottom, left:right] = 1
    return marked
