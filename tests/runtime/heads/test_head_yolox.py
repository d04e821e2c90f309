"""YOLOX, with and without decoding in the file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cases import written
from head_checks import ROWS, SIZE, Box, Outputs, PerClassChecks, layout
from test_head_yolov5 import rows_of

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.grid import grid
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


def on_grid(boxes: Sequence[Box], classes: int) -> Outputs:
    raw = rows_of(boxes, classes)["output"]
    corner, stride = grid(SIZE, (8, 16, 32))
    filled = raw[:, 4] > 0
    raw[filled, :2] = (raw[:, :2] / stride - corner)[filled]
    raw[filled, 2:4] = np.log((raw[:, 2:4] / stride)[filled])
    return {"output": raw}


def around(row: int) -> tuple[float, float, float, float]:
    """A box around the center of a grid cell of 64x96."""
    corner, stride = grid(SIZE, (8, 16, 32))
    x, y = (corner[row] + 0.5) * stride[row]
    return (float(x) - 4, float(y) - 4, float(x) + 4, float(y) + 4)


FULL = [Box(row, around(row), 0, 0.9) for row in range(ROWS)]


class TestYolox(PerClassChecks):
    name = "yolox"
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return on_grid(boxes, classes)

    def test_offsets_near_zero_tell(self) -> None:
        at, outputs = self.batch([FULL], 3)
        assert self.recognized(outputs, at) == self.name


class TestYoloxDecoded(PerClassChecks):
    name = "yolox-decoded"
    by_shapes = False

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return rows_of(boxes, classes)

    def test_centers_at_their_cells_and_an_objectness_tell(self) -> None:
        at, outputs = self.batch([FULL], 3)
        assert self.recognized(outputs, at) == self.name


def test_without_a_sample_the_candidates_are_named_with_what_was_found() -> None:
    with pytest.raises(ModelError, match=r"could be yolov5 or yolox or .*: found output 1x3549x85 .*416x416.*'head:'"):
        choose(layout({"output": (1, 3549, 85)}, (416, 416)), {})


@pytest.mark.parametrize("name", ["yolox", "yolox-decoded"])
def test_it_keeps_its_own_input(name: str) -> None:
    """BGR 0..255 at the top left, while YOLOv6, with the same layout, takes RGB 0..1 in the center."""
    convention = head(name).convention
    assert (convention.colour, convention.scale, convention.letterbox) == ("bgr", 1.0, "top-left")


CASES = [written(TestYolox()), written(TestYoloxDecoded())]
