"""Objects in a detector's raw outputs, for pruning without training: masks, and boxes with their confidences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.frames import Candidates
from edgesparse.config import DetectorSpec
from edgesparse.model.activations import Batches, stream
from edgesparse.model.load import Model
from edgesparse.model.outputs import Read
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.registry import head as head_of

CONFIDENCE = 0.1
"""Minimum confidence, low enough for doubtful objects, whose order among the others affects the score."""
MARGIN = 0.15
"""How far an object extends beyond its box, as a share of its sides: a box is located by its edges."""


def object_masks(model: Model, batches: Batches, spec: DetectorSpec) -> Iterator[NDArray[np.float32]]:
    """Yield a mask [N, height, width] per batch, in the input's pixels: 1 inside detected objects, else 0."""
    for values in stream(model, batches, [output.name for output in model.graph.output]):
        outputs = list(values.values())
        decode = head_of(spec.head).decode(_layout(values, spec), CONFIDENCE, False)
        yield np.stack([_mask(decode(outputs, i)[0][:, :4], spec.input.size) for i in range(len(outputs[0]))])


def box_reader(spec: DetectorSpec) -> Read | None:
    """Return a function from a batch's outputs to [places, 4 + classes]: xyxy boxes in pixels and class confidences.

    None for heads that list detections: the position in a list says nothing about the object.
    """
    head = head_of(spec.head)

    def read(values: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        outputs = list(values.values())
        decode = head.decode(_layout(values, spec), 0.0, True)
        return np.concatenate([_answers(decode(outputs, i), len(spec.classes)) for i in range(len(outputs[0]))])

    return read if head.per_class else None


def _answers(candidates: Candidates, classes: int) -> NDArray[np.float32]:
    xyxy, confidence, _ = candidates
    return np.concatenate([xyxy[::classes, :4], confidence.reshape(-1, classes)], 1)


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
