"""RT-DETR and related models, in the layouts of their exporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pytest
from cases import written
from head_checks import (
    SIZE,
    Box,
    HeadChecks,
    Outputs,
    PerClassChecks,
    assert_found,
    layout,
    relative,
    scores_of,
    xyxy_of,
)
from numpy.typing import NDArray

from edgesparse.runtime.heads.recognize import check, choose
from edgesparse.runtime.heads.registry import head


class TestRtDetr(PerClassChecks):
    name = "rtdetr"
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return {"output0": np.concatenate([relative(boxes), scores_of(boxes, classes)], 1)}


class TestRtDetrLogits(PerClassChecks):
    name = "rtdetr"
    exact = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = np.clip(scores_of(boxes, classes), 1e-9, 1 - 1e-9)
        return {"logits": np.log(scores / (1 - scores)), "pred_boxes": relative(boxes)}

    def test_logits_far_from_zero_are_certain_and_cause_no_warning(self) -> None:
        at, outputs = self.batch([[Box(3, (8, 8, 24, 24), 0, 1.0)]], 2, "float16")
        outputs[0] = np.where(outputs[0] > 0, 1000, -1000).astype(np.float16)
        assert_found(self.decoder(at)(outputs, 0), [Box(3, (8, 8, 24, 24), 0, 1.0)], "float16")


class TestRtDetrListed(HeadChecks):
    name = "rtdetr"
    whole: ClassVar[Mapping[str, str]] = {"labels": "int64"}

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = scores_of(boxes, classes)
        return {"labels": scores.argmax(1), "boxes": xyxy_of(boxes), "scores": scores.max(1)}


class TestRtDetrRelative(HeadChecks):
    name = "rtdetr-relative"
    by_shapes = False
    whole: ClassVar[Mapping[str, str]] = {"labels": "int64"}

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores, sides = scores_of(boxes, classes), np.array([SIZE[1], SIZE[0]] * 2)
        return {"labels": scores.argmax(1), "boxes": xyxy_of(boxes) / sides, "scores": scores.max(1)}


class TestRtDetrEndToEnd(HeadChecks):
    name = "rtdetr-end2end"
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = scores_of(boxes, classes)
        return {"output0": np.concatenate([relative(boxes), scores.max(1)[:, None], scores.argmax(1)[:, None]], 1)}


def listed(first: list[float], last: float) -> list[NDArray[np.float32]]:
    return [np.array([[[*first, 0.9, last], [*first, 0.8, last]]], np.float32)]


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        (listed([10, 20, 300, 400], 7), "end2end"),
        (listed([0.5, 0.5, 0.25, 0.125], 7), "rtdetr-end2end"),
        (listed([0.5, 0.5, 0.25, 0.125], 0.3), "rtdetr"),
    ],
    ids=["YOLOv10", "RT-DETR from 8.4 on", "RT-DETR of two classes, before"],
)
def test_lists_of_six_columns_are_told_apart_by_a_sample(sample: list[NDArray[np.float32]], name: str) -> None:
    assert choose(layout({"output0": (1, 2, 6)}), {}, sample) == name


@pytest.mark.parametrize("size", [(480, 640), (192, 320), (640, 640)])
def test_300_queries_are_no_grid_of_300_cells(size: tuple[int, int]) -> None:
    assert choose(layout({"output0": (1, 300, 84)}, size), {}) == "rtdetr"


@pytest.mark.parametrize(
    "outputs",
    [
        {"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)},
        {"labels": (1, 300), "boxes": (1, 300, 4), "scores": (1, 300)},
    ],
    ids=["logits", "listed"],
)
def test_the_names_of_its_outputs_tell(outputs: dict[str, tuple[int, ...]]) -> None:
    assert choose(layout(outputs), {}) == "rtdetr"
    check("rtdetr", layout(outputs))


def test_relative_boxes_are_in_a_stretched_frame() -> None:
    at = layout({"output0": (1, 2, 6)}, (320, 640))
    xyxy, confidence, class_id = head("rtdetr-end2end").decode(at, 0.85)(listed([0.5, 0.5, 0.25, 0.5], 7), 0)
    np.testing.assert_allclose(xyxy, [[240, 80, 400, 240]])
    np.testing.assert_allclose(confidence, [0.9])
    assert class_id.tolist() == [7]
    assert head("rtdetr-end2end").convention.letterbox == "stretch"


CASES = [
    written(checks) for checks in (TestRtDetrLogits(), TestRtDetrListed(), TestRtDetrRelative(), TestRtDetrEndToEnd())
]
