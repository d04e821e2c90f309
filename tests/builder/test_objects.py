"""Masks of detected objects, and boxes with confidences, from raw outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import squares
from numpy.typing import NDArray

from edgesparse.builder.objects import MARGIN, box_reader, object_masks
from edgesparse.config import DetectorSpec, InputSpec


def test_the_mask_is_one_inside_the_widened_boxes_and_zero_elsewhere(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "squares.onnx"))
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    image = squares.image([(2, 5, 0), (7, 0, 1)])
    batch = image[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    (mask,) = object_masks(model, lambda: [batch], spec)
    wide = round(8 * MARGIN)
    expected = np.zeros((1, 64, 64), np.float32)
    expected[0, 40 - wide : 48 + wide, 16 - wide : 24 + wide] = 1
    expected[0, : 8 + wide, 56 - wide :] = 1
    np.testing.assert_array_equal(mask, expected)


def test_images_without_objects_give_an_empty_mask(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "squares.onnx"))
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    black = np.zeros((1, 3, 64, 64), np.float32)
    assert [mask.any() for mask in object_masks(model, lambda: [black, black], spec)] == [False, False]


def test_the_confidence_includes_the_objectness() -> None:
    raw = np.random.default_rng(0).random((2, 84, 7), np.float32)
    spec = DetectorSpec(head="yolov5", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    read = box_reader(spec)
    assert read is not None
    boxes = read({"output": raw})
    rows = raw.reshape(-1, 7)
    np.testing.assert_allclose(boxes[:, 4:], rows[:, 5:] * rows[:, 4:5])
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:4]) / 2, rows[:, :2], atol=1e-6)


def test_heads_that_list_detections_have_no_reader() -> None:
    spec = DetectorSpec(head="end2end", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    assert box_reader(spec) is None


TASKS = {"yolov8-seg": 4, "yolov8-pose": 6, "yolov8-obb": 1}
"""Rows behind the class scores, by head."""


def spec_of(head: str) -> DetectorSpec:
    keypoints = (2, 3) if head == "yolov8-pose" else None
    return DetectorSpec(head=head, classes=squares.NAMES, input=InputSpec(size=(64, 64)), keypoints=keypoints)


def outputs_of(head: str) -> dict[str, NDArray[np.float32]]:
    """Random boxes inside the image, scores, and the rows of a task."""
    random = np.random.default_rng(0)
    raw = random.random((1, 6 + TASKS[head], squares.CELLS), np.float32)
    raw[:, :2], raw[:, 2:4] = 20 + 24 * raw[:, :2], 8 + 10 * raw[:, 2:4]
    values = {"output0": raw}
    if head == "yolov8-seg":
        values["output1"] = random.normal(0, 1, (1, 4, 16, 16)).astype(np.float32)
    return values


def read(head: str, values: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    reader = box_reader(spec_of(head))
    assert reader is not None
    return reader(values)


@pytest.mark.parametrize(
    ("head", "output", "row"),
    [
        ("yolov8-seg", "output0", 6),
        ("yolov8-seg", "output1", 0),
        ("yolov8-pose", "output0", 6),
        ("yolov8-obb", "output0", 6),
    ],
)
def test_what_is_read_shows_a_change_of_shapes_in_the_same_boxes(head: str, output: str, row: int) -> None:
    values = outputs_of(head)
    before = read(head, values)
    changed = {name: value.copy() for name, value in values.items()}
    changed[output][:, row] += 1
    after = read(head, changed)
    np.testing.assert_array_equal(before[:, -2:], after[:, -2:])  # confidences
    assert (before != after).any(axis=1).mean() > 0.95


def test_the_confidence_of_keypoints_is_not_read_as_that_of_a_class() -> None:
    values = outputs_of("yolov8-pose")
    fields = read("yolov8-pose", values)
    assert fields.shape[1] == 4 + 2 * 2 + 2
    np.testing.assert_array_equal(fields[:, -2:], values["output0"][0, 4:6].T)


def test_a_rotated_box_reads_the_same_after_half_a_turn() -> None:
    values = outputs_of("yolov8-obb")
    turned = {"output0": values["output0"].copy()}
    turned["output0"][:, 6] += np.pi
    np.testing.assert_allclose(read("yolov8-obb", values), read("yolov8-obb", turned), rtol=1e-4, atol=1e-3)


def test_a_mask_is_read_inside_its_box() -> None:
    values = outputs_of("yolov8-seg")
    values["output0"][:, 6:] = [[[1], [0], [0], [0]]]
    values["output0"][:, :4] = [[[24], [40], [16], [16]]]
    values["output1"][:] = -9
    values["output1"][:, 0, 8:12, 4:8] = 9  # the box, at a quarter of the input's resolution
    assert (read("yolov8-seg", values)[:, 4:-2] > 0.99).all()


def test_a_rotated_object_is_marked_where_it_is(tmp_path: Path) -> None:
    raw = np.zeros((1, 7, squares.CELLS), np.float32)
    raw[0, :, 7] = [32, 32, 40, 4, 0.9, 0, np.pi / 2]  # a horizontal bar, turned upright
    model = onnx.load(squares.constant(tmp_path / "bar.onnx", {"output0": raw}))
    (mask,) = object_masks(model, lambda: [np.zeros((1, 3, 64, 64), np.float32)], spec_of("yolov8-obb"))
    rows, columns = np.flatnonzero(mask[0].any(1)), np.flatnonzero(mask[0].any(0))
    assert (rows.min(), rows.max() + 1) == (6, 58) and 28 <= columns.min() < columns.max() < 36
