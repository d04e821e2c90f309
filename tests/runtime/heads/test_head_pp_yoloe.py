"""PP-YOLOE: boxes in rows, scores in columns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cases import written
from head_checks import Box, Outputs, PerClassChecks, layout, scores_of, xyxy_of

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose


class TestPPYoloE(PerClassChecks):
    name = "pp-yoloe"

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return {"boxes": xyxy_of(boxes), "scores": scores_of(boxes, classes).T}


def test_its_shapes_tell_it_from_yolo_nas() -> None:
    assert choose(layout({"tmp_1": (1, 8400, 4), "concat": (1, 80, 8400)}), {}) == "pp-yoloe"
    assert choose(layout({"tmp_1": (1, 8400, 4), "concat": (1, 8400, 80)}), {}) == "yolo-nas"


def test_a_class_count_that_differs_from_the_names_is_refused() -> None:
    with pytest.raises(ModelError, match="have 80 classes as pp-yoloe, the file's metadata names 2"):
        choose(layout({"boxes": (1, 8400, 4), "scores": (1, 80, 8400)}), {"names": "{0: 'a', 1: 'b'}"})


def test_scores_of_another_length_are_refused() -> None:
    with pytest.raises(ModelError, match="no known head"):
        choose(layout({"boxes": (1, 8400, 4), "scores": (1, 80, 2100)}), {})


CASES = [written(TestPPYoloE())]
