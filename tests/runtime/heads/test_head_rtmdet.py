"""RTMDet and others of MMDetection: a list of five columns, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from cases import written
from head_checks import Box, HeadChecks, Outputs, layout, scores_of, xyxy_of

from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head


class TestRtmDet(HeadChecks):
    name = "rtmdet"
    whole: ClassVar[Mapping[str, str]] = {"labels": "int64"}

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        scores = scores_of(boxes, classes)
        return {"dets": np.concatenate([xyxy_of(boxes), scores.max(1)[:, None]], 1), "labels": scores.argmax(1)}


CASES = [written(TestRtmDet())]


def test_the_order_of_its_outputs_does_not_matter() -> None:
    at = layout({"labels": (1, 100), "dets": (1, 100, 5)})
    assert choose(at, {}) == "rtmdet" and not head("rtmdet").nms
    assert choose(Layout(at.outputs[::-1], at.size), {}) == "rtmdet"
