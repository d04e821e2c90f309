"""Masks of detected objects, and boxes with confidences, from raw outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import squares

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
