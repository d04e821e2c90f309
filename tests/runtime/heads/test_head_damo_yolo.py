"""DAMO-YOLO: scores, then boxes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cases import spread, written
from head_checks import Box, Outputs, PerClassChecks, layout, scores_of, xyxy_of

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose


class TestDamoYolo(PerClassChecks):
    name = "damo-yolo"

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return {"output": scores_of(boxes, classes), "850": xyxy_of(boxes)}

    @pytest.mark.parametrize("classes", [3, 4])
    def test_a_sample_tells_it_too(self, classes: int) -> None:
        at, outputs = self.batch([spread(classes)], classes)
        assert choose(at, {}, outputs) == self.name


CASES = [written(TestDamoYolo())]


def test_the_order_tells_it_from_yolo_nas() -> None:
    assert choose(layout({"output": (1, 8400, 80), "850": (1, 8400, 4)}), {}) == "damo-yolo"
    assert choose(layout({"904": (1, 8400, 4), "913": (1, 8400, 80)}), {}) == "yolo-nas"


def test_names_without_logits_are_no_scores() -> None:
    with pytest.raises(ModelError, match="no known head"):
        choose(layout({"logits": (1, 2100, 80), "850": (1, 8400, 4)}), {})
