"""SSD and EfficientDet with TensorFlow's four outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cases import written
from head_checks import ROWS, SIZE, Box, HeadChecks, Outputs, layout, scores_of, xyxy_of

from edgesparse.errors import ModelError
from edgesparse.runtime.heads.recognize import choose
from edgesparse.runtime.heads.registry import head

NAMES = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")


class TestTensorFlow(HeadChecks):
    """Boxes as relative y1, x1, y2, x2; classes from 1 on; entries after the count are leftovers."""

    name = "tensorflow"

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        x1, y1, x2, y2 = xyxy_of(boxes).T
        height, width = SIZE
        filled = [box.row for box in boxes]
        order = [*filled, *np.setdiff1d(np.arange(ROWS), filled)]
        scores = scores_of(boxes, classes)
        scores[np.setdiff1d(np.arange(ROWS), filled)] = 1
        return {
            "detection_boxes": np.stack([y1 / height, x1 / width, y2 / height, x2 / width], 1)[order],
            "detection_classes": scores.argmax(1)[order] + 1.0,
            "detection_scores": scores.max(1)[order],
            "num_detections": np.float32(len(boxes)),
        }


CASES = [written(TestTensorFlow())]


def test_its_names_tell_it_from_efficient_nms() -> None:
    shapes = ((1, 100, 4), (1, 100), (1, 100), (1,))
    assert choose(layout(dict(zip(NAMES, shapes, strict=True))), {}) == "tensorflow"
    assert choose(layout(dict(zip((f"{name}:0" for name in NAMES), shapes, strict=True))), {}) == "tensorflow"
    assert choose(layout(dict(zip(NAMES, (*shapes[:3], (1, 1)), strict=True))), {}) == "efficient-nms"


def test_other_names_are_refused() -> None:
    with pytest.raises(ModelError, match="no known head"):
        choose(layout({"a": (1, 100, 4), "b": (1, 100), "c": (1, 100), "d": (1,)}), {})


def test_its_classes_are_cocos_ids() -> None:
    assert head("tensorflow").coco_ids == range(1, 91)
