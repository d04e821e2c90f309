"""Outputs of a network that `slim` rewrote: the maps of its last convolutions, as its heads read them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FAMILIES = {
    "yolov8-maps": (64, 0, (8, 16, 32)),
    "yolox-maps": (5, 0, (8, 16, 32)),
    "nanodet-maps": (0, 32, (8, 16, 32)),
    "fastestdet-maps": (5, 0, (16,)),
}
"""Channels before the classes and after them, and strides."""
OBJECTNESS = {"yolox-maps": 4, "fastestdet-maps": 0}


def raw_maps(
    head: str, batch: int, classes: int, size: tuple[int, int], random: np.random.Generator, share: float
) -> dict[str, NDArray[np.float32]]:
    """Maps by name, coarsest first, in which about `share` of the cells reach a confidence of 0.5.

    Channels before the classes, and all others, are outputs of their own, as convolutions that `slim` did not merge
    leave them.
    """
    before, after, strides = FAMILIES[head]
    maps = {}
    for stride in reversed(strides):
        shape = batch, before + classes + after, size[0] // stride, size[1] // stride
        values = random.normal(0, 1.5, shape).astype(np.float32)
        likely = random.random((batch, 1, *shape[2:])) < share
        logits = random.uniform(-1, 4, (batch, classes, *shape[2:]))
        if head == "fastestdet-maps":  # one class stands out in the softmax
            best = random.integers(0, classes, (batch, 1, *shape[2:]))
            logits += 8 * (best == np.arange(classes).reshape(1, -1, 1, 1))
        values[:, before : before + classes] = np.where(likely, logits, logits - 12)
        if head in OBJECTNESS:
            values[:, OBJECTNESS[head]] = np.where(likely[:, 0], random.uniform(0, 5, (batch, *shape[2:])), -6)
        parts = np.split(values, [before], axis=1) if before else [values]
        maps.update({f"map{stride}-{i}": np.ascontiguousarray(part) for i, part in enumerate(parts)})
    return maps
