"""YOLOv8 and families that share its layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cases import written
from head_checks import Box, Outputs, PerClassChecks, centered, layout, scores_of

from edgesparse.runtime.heads.recognize import check, choose


class TestYoloV8(PerClassChecks):
    name = "yolov8"
    counts = (1, 2, 4, 80)

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return {"output0": np.concatenate([centered(boxes), scores_of(boxes, classes)], 1).T}

    def test_corners_of_half_precision_boxes_are_not_rounded_again(self) -> None:
        """At 600 pixels the step of float16 is 0.5, so the corners are computed in float32."""
        at, outputs = self.batch([[Box(3, (550.25, 8, 650.75, 24), 0, 1.0)]], 1, "float16")
        assert self.decoder(at)(outputs, 0)[0].tolist() == [[550.25, 8, 650.75, 24]]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 84, 8400), (640, 640)),
        ((1, 5, 5040), (384, 640)),
        ((1, 84, 34000), (1280, 1280)),
        ((1, 84, 8500), (320, 320)),
    ],
    ids=["YOLOv8n", "one class, 384x640", "P6", "P2"],
)
def test_its_shapes_tell(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert choose(layout({"output0": shape}, size), {}) == "yolov8"


def test_a_named_head_may_have_a_grid_of_its_own() -> None:
    check("yolov8", layout({"output": (1, 84, 33600)}))


def test_more_predictions_than_columns_are_needed() -> None:
    """There are as many columns (six) as cells of stride 32 in 64x96; still, this is not a YOLOv8 with 122 classes."""
    assert choose(layout({"output": (1, 5, 126)}, (64, 96)), {}) == "yolov8"
    with pytest.raises(Exception, match="yolov5 or yolox"):
        choose(layout({"output": (1, 126, 6)}, (64, 96)), {})


CASES = [written(TestYoloV8())]
