"""YOLOv5 and families that share its layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from cases import Case, written
from head_checks import SIZE, Box, Outputs, PerClassChecks, centered, layout, scores_of

from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.recognize import check, choose


def rows_of(boxes: Sequence[Box], classes: int) -> Outputs:
    """The score is objectness times class score. Rows without a box have every class, but zero objectness."""
    scores = scores_of(boxes, classes)
    objectness = scores.max(1, keepdims=True)
    shares = np.divide(scores, objectness, out=np.ones_like(scores), where=objectness > 0)
    return {"output": np.concatenate([centered(boxes), objectness, shares], 1)}


class TestYoloV5(PerClassChecks):
    name = "yolov5"
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return rows_of(boxes, classes)

    def test_corners_of_half_precision_boxes_are_not_rounded_again(self) -> None:
        at, outputs = self.batch([[Box(3, (550.25, 8, 650.75, 24), 0, 1.0)]], 1, "float16")
        assert self.decoder(at)(outputs, 0)[0].tolist() == [[550.25, 8, 650.75, 24]]

    def test_one_decoded_box_per_cell_with_an_objectness_of_1_is_yolov6(self) -> None:
        corner, stride = grid(SIZE, (8, 16, 32))
        raw = np.concatenate([(corner + 0.5) * stride, np.full((len(corner), 8), 0.5, np.float32)], 1)
        raw[:, 4] = 1
        assert choose(layout({"output": (1, *raw.shape)}, SIZE), {}, [raw[None]]) == "yolov5"


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 25200, 85), (640, 640)), ((1, 102000, 85), (1280, 1280))], ids=["YOLOv5s", "YOLOv5s6"]
)
def test_three_anchors_per_cell_tell(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert choose(layout({"output": shape}, size), {}) == "yolov5"


def test_a_named_head_may_have_anchors_of_its_own() -> None:
    check("yolov5", layout({"output": (1, 5000, 85)}))


def _three_anchors() -> Case:
    case = written(TestYoloV5())
    raw = np.asarray(case.outputs["output"], np.float32)
    others = raw * np.array([1, 1, 1, 1, 0.01, 1, 1, 1], np.float32)
    return replace(case, outputs={"output": np.concatenate([raw, others, others], 1)})


CASES = [_three_anchors()]
