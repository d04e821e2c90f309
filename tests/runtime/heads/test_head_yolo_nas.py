"""YOLO-NAS."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cases import written
from head_checks import SIZE, Box, Outputs, PerClassChecks, assert_found, layout, scores_of, xyxy_of

from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import choose


class TestYoloNas(PerClassChecks):
    name = "yolo-nas"

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return {"boxes": xyxy_of(boxes), "scores": scores_of(boxes, classes)}

    @pytest.mark.parametrize("reverse", [False, True])
    def test_four_classes_beside_four_coordinates_are_told_apart_by_name(self, reverse: bool) -> None:
        expected = Box(7, (8, 8, 24, 24), 3, 0.9)
        at, outputs = self.batch([[expected]], 4)
        if reverse:
            at, outputs = Layout(at.outputs[::-1], SIZE), outputs[::-1]
        assert_found(self.decoder(at)(outputs, 0), [expected])


@pytest.mark.parametrize(
    "outputs",
    [{"boxes": (1, 8400, 4), "scores": (1, 8400, 80)}, {"904": (1, 8400, 4), "913": (1, 8400, 4)}],
    ids=["80 classes", "four classes"],
)
def test_its_shapes_tell(outputs: dict[str, tuple[int, ...]]) -> None:
    assert choose(layout(outputs), {}) == "yolo-nas"


CASES = [written(TestYoloNas())]
