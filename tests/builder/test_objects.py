"""Where a detector finds objects, as a map of the input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import squares

from edgesparse.builder.objects import MARGIN, found, reader
from edgesparse.config import DetectorSpec, InputSpec


def test_the_map_is_one_in_the_widened_boxes_and_nought_elsewhere(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "squares.onnx"))
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    shown = squares.image([(2, 5, 0), (7, 0, 1)])
    batch = shown[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    (marked,) = found(model, lambda: [batch], spec)
    wide = round(8 * MARGIN)
    wanted = np.zeros((1, 64, 64), np.float32)
    wanted[0, 40 - wide : 48 + wide, 16 - wide : 24 + wide] = 1
    wanted[0, : 8 + wide, 56 - wide :] = 1
    np.testing.assert_array_equal(marked, wanted)


def test_images_without_objects_give_nought(tmp_path: Path) -> None:
    model = onnx.load(squares.detector(tmp_path / "squares.onnx"))
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    black = np.zeros((1, 3, 64, 64), np.float32)
    assert [one.any() for one in found(model, lambda: [black, black], spec)] == [False, False]


def test_objectness_counts_into_the_confidence_that_is_read() -> None:
    raw = np.random.default_rng(0).random((2, 84, 7), np.float32)
    spec = DetectorSpec(head="yolov5", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    read = reader(spec)
    assert read is not None
    made = read({"output": raw})
    rows = raw.reshape(-1, 7)
    np.testing.assert_allclose(made[:, 4:], rows[:, 5:] * rows[:, 4:5])
    np.testing.assert_allclose((made[:, :2] + made[:, 2:4]) / 2, rows[:, :2], atol=1e-6)


def test_lists_of_boxes_are_not_compared_place_by_place() -> None:
    spec = DetectorSpec(head="end2end", classes=squares.NAMES, input=InputSpec(size=(64, 64)))
    assert reader(spec) is None
