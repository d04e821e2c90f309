"""Lists of final boxes in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from cases import Case, written
from head_checks import Box, HeadChecks, Outputs, layout, scores_of, xyxy_of

from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head


class TestEndToEnd(HeadChecks):
    name = "end2end"
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = scores_of(boxes, classes)
        return {"output0": np.concatenate([xyxy_of(boxes), scores.max(1)[:, None], scores.argmax(1)[:, None]], 1)}


@pytest.mark.parametrize("size", [(480, 640), (192, 320), (640, 640)])
def test_a_list_of_300_is_no_grid_of_300_cells(size: tuple[int, int]) -> None:
    """480x640 has 300 cells of stride 32, 192x320 has 300 of strides 16 and 32."""
    at = layout({"output0": (1, 300, 6)}, size)
    assert choose(at, {}) == "end2end"
    check("end2end", at)


def test_a_list_of_nothing_is_in_pixels() -> None:
    """As written by a built-in NMS that found nothing."""
    assert choose(layout({"output0": (1, 2, 6)}), {}, [np.zeros((1, 2, 6), np.float32)]) == "end2end"


def test_a_class_that_is_no_whole_number_is_no_class() -> None:
    raw = np.array([[[0, 0, 9, 9, 0.9, 1.5], [0, 0, 9, 9, 0.9, 2], [0, 0, 9, 9, 0.9, np.nan]]], np.float32)
    at = layout({"output0": (1, 3, 6)})
    assert head("end2end").decode(at, 0.25)([raw], 0)[2].tolist() == [-1, 2, -1]


def _list() -> Case:
    """A list of 100; with as many rows as cells it would be DeepStream-Yolo's layout."""
    case = written(TestEndToEnd())
    return replace(case, outputs={"output0": case.outputs["output0"][:, -100:]}, expected=case.expected[1:])


CASES = [_list()]
