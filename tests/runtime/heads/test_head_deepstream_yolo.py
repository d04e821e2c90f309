"""DeepStream-Yolo's layout: corners, score and class per prediction, without NMS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cases import Case, written
from head_checks import SIZE, Box, HeadChecks, Outputs, layout, scores_of, xyxy_of
from numpy.typing import NDArray

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


class TestDeepStreamYolo(HeadChecks):
    name = "deepstream-yolo"
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = scores_of(boxes, classes)
        return {"output": np.concatenate([xyxy_of(boxes), scores.max(1)[:, None], scores.argmax(1)[:, None]], 1)}


class TestDeepStreamYoloApart(HeadChecks):
    """As written by releases before the single output."""

    name = "deepstream-yolo"

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = scores_of(boxes, classes)
        return {"boxes": xyxy_of(boxes), "scores": scores.max(1)[:, None], "classes": scores.argmax(1)[:, None]}


def rows(anchors: int, label: float) -> NDArray[np.float32]:
    """A box around each cell, all with the same label."""
    corner, stride = grid(SIZE, (8, 16, 32))
    center = (corner + 0.5) * stride
    tail = np.tile(np.array([0.02, label], np.float32), (len(center), 1))
    return np.tile(np.concatenate([center - 6, center + 6, tail], 1), (anchors, 1))[None]


@pytest.mark.parametrize("label", [0, 7])
@pytest.mark.parametrize("anchors", [1, 3])
def test_it_is_not_taken_for_yolox_or_yolov5_of_one_class(anchors: int, label: float) -> None:
    raw = rows(anchors, label)
    assert choose(layout({"output": raw.shape}, SIZE), {}, [raw]) == "deepstream-yolo"


def test_its_boxes_need_nms_and_have_one_class_each() -> None:
    assert head("deepstream-yolo").nms and not head("deepstream-yolo").per_class


CASES = [written(TestDeepStreamYolo()), written(TestDeepStreamYoloApart())]


@pytest.mark.parametrize("case", CASES, ids=["one output", "three outputs"])
def test_both_layouts_are_recognized_and_right(case: Case) -> None:
    case.check()


def test_three_outputs_off_the_grid_are_refused() -> None:
    with pytest.raises(ModelError, match="no known head"):
        choose(layout({"boxes": (1, 100, 4), "scores": (1, 100, 1), "classes": (1, 100, 1)}), {})
