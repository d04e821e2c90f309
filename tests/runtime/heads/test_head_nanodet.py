"""NanoDet: distributions of distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from head_checks import ROWS, SIZE, Box, assert_found, layout, scores_of
from numpy.typing import NDArray

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.nanodet import BINS, STRIDES
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


def two_bins(distance: float) -> NDArray[np.float64]:
    """Logits whose softmax is shared by the two bins around a distance of 0 to 7 strides."""
    whole = min(int(distance), BINS - 2)
    weights = np.full(BINS, 1e-12)
    weights[whole], weights[whole + 1] = max(1 - (distance - whole), 1e-12), max(distance - whole, 1e-12)
    return np.log(weights)


def encode(boxes: Sequence[Box], classes: int) -> tuple[Layout, list[NDArray[np.float32]]]:
    """The six outputs of one image; each box holds the center of its cell."""
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
"""On all strides."""


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
