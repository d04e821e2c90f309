"""One network per family: raw outputs for one image, and their boxes by decoding code independent of the head's.

A family's test file has a list CASES of these. The page of families (docs/reference/models.md) is generated from all of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import exp

import numpy as np
from head_checks import SIZE, Box, HeadChecks
from numpy.typing import NDArray

from edgesparse.backends import TensorSpec
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.recognize import choose, keypoints_in
from edgesparse.runtime.heads.registry import head

CONF = 0.3
PIXEL = 0.05
"""Tolerance for coordinates, in pixels."""

Values = tuple[float, float, float, float, float, int]
"""x1, y1, x2, y2 in the input's pixels, score, class."""


@dataclass(frozen=True)
class Case:
    """A network's outputs with a batch of one, and every candidate in them with a score of at least CONF."""

    head: str
    outputs: Mapping[str, NDArray[np.generic]]
    expected: tuple[Values, ...]
    size: tuple[int, int] = SIZE
    named: bool = False
    """Whether the outputs do not identify the family, so that the recipe or the file's metadata has to name it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The file's metadata, if it identifies the family."""

    @property
    def layout(self) -> Layout:
        specs = tuple(TensorSpec(name, value.shape, value.dtype.name) for name, value in self.outputs.items())
        return Layout(specs, self.size, keypoints_in(self.metadata))

    def check(self) -> None:
        """Check that the head is recognized and decodes exactly these candidates."""
        outputs = list(self.outputs.values())
        if not self.named:
            assert choose(self.layout, self.metadata, outputs) == self.head
        xyxy, score, label = head(self.head).decode(self.layout, CONF)(outputs, 0)
        actual = sorted(zip(label.tolist(), score.tolist(), xyxy[:, :4].tolist(), strict=True))
        expected = sorted((label, score, [*corners]) for *corners, score, label in self.expected)
        assert [entry[0] for entry in actual] == [entry[0] for entry in expected]
        np.testing.assert_allclose([entry[1] for entry in actual], [entry[1] for entry in expected], atol=1e-4)
        np.testing.assert_allclose([entry[2] for entry in actual], [entry[2] for entry in expected], atol=PIXEL)


def spread(classes: int) -> list[Box]:
    """A box around every grid cell of SIZE, three of which are confident."""
    corner, stride = grid(SIZE, (8, 16, 32))
    confident = {20: 0.9, 100: 0.75, 123: 0.5}
    boxes = []
    for row, (x, y) in enumerate(((corner + 0.5) * stride).tolist()):
        score = confident.get(row, 0.0625)
        boxes.append(Box(row, (x - 6, y - 5, x + 6.5, y + 5), row % classes, score))
    return boxes


def written(checks: HeadChecks, classes: int = 3, metadata: Mapping[str, str] | None = None) -> Case:
    """A case from a family's tests, which write boxes into raw outputs."""
    boxes = spread(classes)
    at, outputs = checks.batch([boxes], classes)
    names = [spec.name for spec in at.outputs]
    expected = tuple((*box.xyxy, box.score, box.class_id) for box in boxes if box.score >= CONF)
    return Case(checks.name, dict(zip(names, outputs, strict=True)), expected, metadata=metadata or {})


def of_boxes(name: str, layout: Layout, outputs: list[NDArray[np.float32]], boxes: list[Box]) -> Case:
    """A case from raw outputs with boxes written into them."""
    names = [spec.name for spec in layout.outputs]
    expected = tuple((*box.xyxy, box.score, box.class_id) for box in boxes if box.score >= CONF)
    return Case(name, dict(zip(names, outputs, strict=True)), expected, layout.size)


def scores(seed: int, *shape: int) -> NDArray[np.float32]:
    """Mostly low scores."""
    return (np.random.default_rng(seed).random(shape) ** 10).astype(np.float32) * np.float32(0.99)


def noise(seed: int, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(0, scale, shape)).astype(np.float32)


def logit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of the sigmoid."""
    clipped = np.clip(values.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


def sigma(value: float) -> float:
    return 1 / (1 + exp(-value))


def cells(size: tuple[int, int], stride: int) -> Iterator[tuple[int, int, int]]:
    """(number, x, y) of each cell, row by row."""
    columns = -(-size[1] // stride)
    for number in range(columns * -(-size[0] // stride)):
        yield number, number % columns, number // columns


def best(score_of: Callable[[int], float], classes: int) -> tuple[float, int]:
    """The highest score and its class."""
    return max(((score_of(label), label) for label in range(classes)), key=lambda pair: pair[0])
