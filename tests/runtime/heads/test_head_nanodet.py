"""NanoDet: distributions of distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from cases import CONF, Case, Values, best, cells, noise, of_boxes, scores
from head_checks import ROWS, SIZE, Box, assert_found, layout, scores_of
from numpy.typing import NDArray

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.nanodet import BINS
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head

STRIDES = (8, 16, 32)


def two_bins(distance: float) -> NDArray[np.float64]:
    """Logits whose softmax is shared by the two bins around a distance of 0 to 7 strides."""
    whole = min(int(distance), BINS - 2)
    weights = np.full(BINS, 1e-12)
    weights[whole], weights[whole + 1] = max(1 - (distance - whole), 1e-12), max(distance - whole, 1e-12)
    return np.log(weights)


def encode(boxes: Sequence[Box], classes: int) -> tuple[Layout, list[NDArray[np.float32]]]:
    """The six outputs of one image; each box contains the center of its cell."""
    corner, stride = grid(SIZE, STRIDES)
    center, bins = (corner + 0.5) * stride, np.zeros((ROWS, 4, BINS))
    for box in boxes:
        x, y = center[box.row]
        sides = np.array([x - box.xyxy[0], y - box.xyxy[1], box.xyxy[2] - x, box.xyxy[3] - y])
        bins[box.row] = [two_bins(side / stride[box.row, 0]) for side in sides]
    split = np.cumsum([(SIZE[0] // s) * (SIZE[1] // s) for s in STRIDES])[:-1]
    parts = (*np.split(scores_of(boxes, classes), split), *np.split(bins.reshape(ROWS, -1), split))
    names = [f"{kind}_pred_stride_{s}" for kind in ("cls", "dis") for s in STRIDES]
    outputs = [part[None].astype(np.float32) for part in parts]
    return layout({name: out.shape for name, out in zip(names, outputs, strict=True)}, SIZE), outputs


BOXES = [
    Box(0, (1, 2, 20, 30), 1, 0.9),
    Box(50, (10, 20, 58, 60), 0, 0.5),
    Box(96, (2, 3, 50, 60.5), 2, 0.2),
    Box(125, (20, 30, 96, 64), 2, 0.7),
]
"""Boxes at all strides."""


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["as exported", "reversed"])
def test_boxes_come_back(order: slice) -> None:
    at, outputs = encode(BOXES, 3)
    at, outputs = Layout(at.outputs[order], SIZE), outputs[order]
    assert choose(at, {}, outputs) == "nanodet" and head("nanodet").classes(at) == 3
    assert_found(head("nanodet").decode(at, 0.25)(outputs, 0), [box for box in BOXES if box.score > 0.25])


def test_with_multi_label_a_box_counts_for_every_class_that_reaches_the_threshold() -> None:
    first, second = Box(0, (1, 2, 20, 30), 1, 0.9), Box(0, (1, 2, 20, 30), 2, 0.5)
    at, outputs = encode([first, second], 4)
    assert_found(head("nanodet").decode(at, 0.25, True)(outputs, 0), [first, second])


def test_without_conf_every_box_comes_for_every_class_in_order() -> None:
    at, outputs = encode(BOXES, 3)
    xyxy, confidence, class_id = head("nanodet").decode(at, 0.0, True)(outputs, 0)
    assert len(xyxy) == 3 * ROWS and class_id[:4].tolist() == [0, 1, 2, 0] and confidence[1] == np.float32(0.9)


def test_scores_before_the_sigmoid_are_another_family() -> None:
    at, outputs = encode(BOXES, 3)
    with pytest.raises(ModelError, match="no known head"):
        choose(at, {}, [10 * out - 5 for out in outputs])


def test_32_classes_are_told_from_32_bins_by_name() -> None:
    counts = {8: 2704, 16: 676, 32: 169}
    outputs = {f"{kind}_pred_stride_{s}": (1, n, 32) for kind in ("dis", "cls") for s, n in counts.items()}
    assert choose(layout(outputs, (416, 416)), {}) == "nanodet"


def plus(seed: int, size: tuple[int, int]) -> Case:
    """NanoDet-Plus: the expected distance of each side, counted in strides from the corner of the cell."""
    rows = sum(len([*cells(size, stride)]) for stride in (8, 16, 32, 64))
    raw = np.concatenate([scores(seed, 1, rows, 5), noise(seed, 1, rows, 32, scale=3)], 2)
    expected: list[Values] = []
    first = 0
    for stride in (8, 16, 32, 64):
        for number, x, y in cells(size, stride):
            row = raw[0, first + number].tolist()
            score, label = best(row[:5].__getitem__, 5)
            if score >= CONF:
                sides = []
                for k in range(4):
                    weights = [math.exp(value) for value in row[5 + 8 * k : 13 + 8 * k]]
                    sides.append(stride * sum(i * w for i, w in enumerate(weights)) / sum(weights))
                left, top, right, bottom = sides
                corner = x * stride, y * stride
                box = (corner[0] - left, corner[1] - top, corner[0] + right, corner[1] + bottom)
                expected.append((*box, score, label))
        first += number + 1
    return Case("nanodet-plus", {"output": raw}, tuple(expected), size)


CASES = [of_boxes("nanodet", *encode(BOXES, 3), BOXES), plus(1, (96, 160)), plus(2, (104, 136))]
"""The second size of NanoDet-Plus is not a multiple of its strides."""


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: str(case.size))
def test_boxes_of_nanodet_plus_are_those_of_the_formula(case: Case) -> None:
    assert len(case.expected) > 2
    case.check()


def test_both_kinds_of_outputs_hold_the_same() -> None:
    """Newer revisions of the exporter write one output."""
    at, outputs = encode(BOXES, 3)
    joined = np.concatenate([np.concatenate(outputs[:3], 1), np.concatenate(outputs[3:], 1)], 2)
    single = layout({"output": joined.shape}, SIZE)
    assert choose(single, {}, [joined]) == "nanodet" and head("nanodet").classes(single) == 3
    for a, b in zip(
        head("nanodet").decode(at, 0.1)(outputs, 0), head("nanodet").decode(single, 0.1)([joined], 0), strict=True
    ):
        np.testing.assert_array_equal(a, b)
