"""FastestDet: one map at stride 16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cases import Case, of_boxes
from head_checks import SIZE, Box, assert_found, layout
from numpy.typing import NDArray

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.fastestdet import STRIDE
from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head

ROWS, COLUMNS = SIZE[0] // STRIDE, SIZE[1] // STRIDE


def encode(boxes: Sequence[Box], classes: int) -> NDArray[np.float32]:
    """A map [1, 5 + classes, ROWS, COLUMNS]. Objectness and class score both equal the score, so the confidence does
    too."""
    raw = np.zeros((5 + classes, ROWS * COLUMNS))
    raw[5:] = 1 / classes
    raw[3:5] = -9
    for box in boxes:
        y, x = divmod(box.row, COLUMNS)
        left, top, right, bottom = box.xyxy
        width, height = (right - left) / SIZE[1], (bottom - top) / SIZE[0]
        raw[0, box.row], raw[5:, box.row] = box.score, (1 - box.score) / max(classes - 1, 1)
        raw[1, box.row] = np.arctanh((left + right) / 2 / STRIDE - x)
        raw[2, box.row] = np.arctanh((top + bottom) / 2 / STRIDE - y)
        raw[3, box.row], raw[4, box.row] = np.log(width / (1 - width)), np.log(height / (1 - height))
        raw[5 + box.class_id, box.row] = box.score
    return raw.reshape(1, -1, ROWS, COLUMNS).astype(np.float32)


BOXES = [Box(1, (10, 2, 34, 14), 2, 0.9), Box(14, (33, 30, 47, 50), 0, 0.5), Box(20, (30, 50, 50, 60), 1, 0.15)]


def test_boxes_come_back() -> None:
    raw = encode(BOXES, 3)
    at = layout({"758": raw.shape}, SIZE)
    assert choose(at, {}, [raw]) == "fastestdet" and head("fastestdet").classes(at) == 3
    assert_found(head("fastestdet").decode(at, 0.25)([raw], 0), BOXES[:2])


def test_with_multi_label_a_box_counts_for_every_class_that_reaches_the_threshold() -> None:
    raw = encode([Box(1, (10, 2, 34, 14), 1, 0.6)], 2)
    at = layout({"758": raw.shape}, SIZE)
    _, confidence, class_id = head("fastestdet").decode(at, 0.25, True)([raw], 0)
    assert class_id.tolist() == [0, 1]
    np.testing.assert_allclose(confidence, [0.6**0.6 * 0.4**0.4, 0.6], rtol=1e-5)


def test_a_map_without_a_softmax_is_another_family() -> None:
    raw = np.random.default_rng(0).normal(size=(1, 85, ROWS, COLUMNS)).astype(np.float32)
    with pytest.raises(ModelError, match="raw feature maps"):
        choose(layout({"map": raw.shape}, SIZE), {}, [raw])


def test_the_stride_is_16() -> None:
    with pytest.raises(ModelError, match="cannot read this network"):
        check("fastestdet", layout({"map": (1, 85, 8, 12)}, SIZE))


def _fastest() -> Case:
    raw = encode(BOXES, 3)
    return of_boxes("fastestdet", layout({"758": raw.shape}, SIZE), [raw], BOXES)


CASES = [_fastest()]
