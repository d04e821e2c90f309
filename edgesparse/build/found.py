"""Where a detector finds objects in pictures as it takes them: what pruning without training should look at most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.config import DetectorSpec
from edgesparse.graph.activations import Batches, stream
from edgesparse.graph.model import Model
from edgesparse.runtime.heads import HEADS, Decode, Layout

CONFIDENCE = 0.1
"""Doubtful objects too: whether they stay below the others is part of the score."""
MARGIN = 0.15
"""How far beyond its box an object counts, as a share of its sides: the edges are what a box is found by."""


def found(model: Model, batches: Batches, spec: DetectorSpec) -> Iterator[NDArray[np.float32]]:
    """For each batch [N, height, width] in the input's pixels: 1 where the network finds an object, else 0."""
    names = [output.name for output in model.graph.output]
    decode: Decode | None = None
    for values in stream(model, batches, names):
        outputs = [values[name] for name in names]
        if decode is None:
            specs = tuple(TensorSpec(name, value.shape, str(value.dtype)) for name, value in values.items())
            decode = HEADS[spec.head].decode(Layout(specs, spec.input.size), CONFIDENCE, False)
        yield np.stack([_map(decode(outputs, i)[0], spec.input.size) for i in range(len(outputs[0]))])


def _map(xyxy: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    sides = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
    wide = xyxy + sides * np.float32(MARGIN) * np.array([-1, -1, 1, 1], np.float32)
    limits = np.array([size[1], size[0]] * 2)
    marked = np.zeros(size, np.float32)
    for left, top, right, bottom in np.clip(np.rint(wide), 0, limits).astype(np.intp):
        marked[top:bottom, left:right] = 1
    return marked
