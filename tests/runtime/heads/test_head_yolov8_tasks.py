"""YOLOv8's layout with masks, keypoints and angles after the class scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import written
from head_checks import ROWS, SIZE, Box, Outputs, PerClassChecks, centered, layout, scores_of
from numpy.typing import NDArray

from edgesparse.backends import TensorSpec
from edgesparse.backends.frames import Candidates, Decode, Plane
from edgesparse.errors import ModelError
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import check, choose, keypoints_in
from edgesparse.runtime.heads.registry import head

POSE = {"task": "pose", "kpt_shape": "[5, 3]"}


def boxes_only(decode: Decode) -> Decode:
    def decoded(outputs: Sequence[NDArray[Any]], image: int) -> Candidates:
        boxes, confidence, class_id = decode(outputs, image)
        return boxes[:, :4], confidence, class_id

    return decoded


class DetailChecks(PerClassChecks):
    """The boxes are YOLOv8's, whatever follows them."""

    by_shapes = False
    details = 1

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        rows = [centered(boxes), scores_of(boxes, classes), np.tile(np.arange(self.details), (ROWS, 1))]
        return {"output0": np.concatenate(rows, 1).T}

    def decoder(self, at: Layout, conf: float = 0.25, multi_label: bool = False) -> Decode:
        return boxes_only(super().decoder(at, conf, multi_label))

    def test_details_travel_with_their_box(self) -> None:
        at, outputs = self.batch([[Box(3, (8, 8, 24, 24), 1, 0.9), Box(50, (8, 8, 24, 24), 0, 0.8)]], 2)
        outputs[0][:, -1] = np.arange(ROWS)
        boxes, _, _ = head(self.name).decode(at, 0.25)(outputs, 0)
        assert boxes.dtype == np.float32 and boxes.shape == (2, 4 + self.details) and boxes[:, -1].tolist() == [3, 50]
        boxes, _, class_id = head(self.name).decode(at, 0.0, True)(outputs, 0)
        assert boxes.shape == (2 * ROWS, 4 + self.details) and class_id[:4].tolist() == [0, 1, 0, 1]


class TestSegment(DetailChecks):
    name = "yolov8-seg"
    details = 32

    def encode(self, boxes: Sequence[Box], classes: int) -> Outputs:
        return {**super().encode(boxes, classes), "output1": np.ones((32, SIZE[0] // 4, SIZE[1] // 4))}


class TestPose(DetailChecks):
    name = "yolov8-pose"
    details = 15

    def batch(
        self, images: Sequence[Sequence[Box]], classes: int, dtype: str = "float32"
    ) -> tuple[Layout, list[NDArray[Any]]]:
        at, outputs = super().batch(images, classes, dtype)
        return replace(at, keypoints=(5, 3)), outputs


class TestRotated(DetailChecks):
    name = "yolov8-obb"


SEGMENT = {"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)}


def test_prototypes_tell_a_segmentation_model_in_any_order() -> None:
    assert choose(layout(SEGMENT), {}) == choose(layout(SEGMENT), {"task": "segment"}) == "yolov8-seg"
    turned = layout(dict(reversed(SEGMENT.items())))
    assert choose(turned, {}) == "yolov8-seg" and head("yolov8-seg").classes(turned) == 80
    assert head("yolov8-seg").prototypes(turned) == 0
    with pytest.raises(ModelError, match="head 'yolov8-seg' cannot read this network"):
        check("yolov8-seg", layout({"output0": (1, 116, 8400)}))


def test_the_task_in_the_metadata_tells_poses_and_rotated_boxes() -> None:
    at = replace(layout({"output0": (1, 4 + 2 + 15, 8400)}), keypoints=keypoints_in(POSE))
    assert choose(at, POSE) == "yolov8-pose" and head("yolov8-pose").classes(at) == 2
    assert choose(layout({"output0": (1, 20, 8400)}), {"task": "obb"}) == "yolov8-obb"
    assert choose(layout({"output0": (1, 20, 8400)}), {"task": "detect"}) == "yolov8"


def test_without_metadata_values_that_are_no_scores_tell() -> None:
    pose, rotated = layout({"output0": (1, 56, 8400)}), layout({"output0": (1, 20, 8400)})
    raw = np.full((1, 56, 8400), 0.5, np.float32)
    assert choose(pose, {}, [raw]) == "yolov8"
    raw[:, 5::3] = 300
    assert choose(pose, {}, [raw]) == "yolov8-pose"
    raw = np.full((1, 20, 8400), 0.5, np.float32)
    raw[:, -1] = -0.7
    assert choose(rotated, {}, [raw]) == "yolov8-obb"


def test_classes_are_never_guessed_from_keypoints() -> None:
    check("yolov8-pose", layout({"output0": (1, 56, 8400)}))
    with pytest.raises(ModelError, match="without the shape of its keypoints: set 'keypoints:'"):
        check("yolov8-pose", layout({"output0": (1, 57, 8400)}))


@pytest.mark.parametrize("text", ["", "17", "[17, 4]", "[0, 3]", "[17", "{}", "[17, 3, 1]"])
def test_a_shape_of_keypoints_that_is_none_is_left_out(text: str) -> None:
    assert keypoints_in({"kpt_shape": text}) is None


def test_the_gpu_finds_details_where_decoding_does() -> None:
    at = Layout(
        (TensorSpec("output0", (1, 7 + 32, ROWS), "float32"), TensorSpec("p", (1, 32, 16, 24), "float32")), SIZE
    )
    place = head("yolov8-seg").strided(at)
    assert place is not None and place.details == 32
    assert place.planes[0].details == Plane(0, row=1, step=ROWS, first=7 * ROWS)


CASES = [
    written(TestSegment()),
    written(TestPose(), metadata=POSE),
    written(TestRotated(), metadata={"task": "obb"}),
]
