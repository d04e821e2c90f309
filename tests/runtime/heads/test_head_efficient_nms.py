"""Networks that end in TensorRT's EfficientNMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from cases import written
from head_checks import ROWS, SIZE, Box, HeadChecks, Outputs, assert_found, layout, scores_of, xyxy_of

from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import choose


class TestEfficientNms(HeadChecks):
    name = "efficient-nms"
    whole: ClassVar[Mapping[str, str]] = {"num_dets": "int32", "det_classes": "int32"}

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        """After `num_dets` boxes the memory is uninitialized: here it has boxes of full confidence."""
        rows = np.arange(ROWS)
        filled = [box.row for box in boxes]
        order = [*filled, *np.setdiff1d(rows, filled)]
        scores = np.where(np.isin(rows, filled), scores_of(boxes, classes).max(1), 1.0)
        return {
            "num_dets": np.array([len(boxes)]),
            "det_boxes": xyxy_of(boxes)[order],
            "det_scores": scores[order],
            "det_classes": scores_of(boxes, classes).argmax(1)[order],
        }

    def test_the_order_of_its_outputs_does_not_matter(self) -> None:
        expected = Box(7, (8, 8, 24, 24), 3, 0.9)
        at, outputs = self.batch([[expected]], 4)
        order = [3, 1, 0, 2]
        at, outputs = Layout(tuple(at.outputs[i] for i in order), SIZE), [outputs[i] for i in order]
        assert_found(self.decoder(at)(outputs, 0), [expected])


def test_its_shapes_tell() -> None:
    outputs = {"num": (1, 1), "boxes": (1, 100, 4), "scores": (1, 100), "classes": (1, 100)}
    assert choose(layout(outputs), {}) == "efficient-nms"


CASES = [written(TestEfficientNms())]
