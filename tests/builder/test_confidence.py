"""Confidences that INT8 shifts are brought back, judged on images that were not used to fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import squares
from onnx import ModelProto, helper

from edgesparse.builder.confidence import (
    NO_BETTER,
    NOT_EXACT,
    TOO_FEW,
    _exact_layers,
    correct_confidences,
    shift_meter,
)
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.errors import CalibrationError
from edgesparse.int8.recover import Recovered, recover
from edgesparse.int8.score_layers import mapped, score_layers
from edgesparse.model.load import load
from edgesparse.runtime.images import ImageBatches

node = helper.make_node
SPEC = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(64, 64)))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    """The detector of squares with confidences from a Sigmoid, after a layer that only passes colors on."""
    path = tmp_path_factory.mktemp("soft") / "soft.onnx"
    cells = squares.CELLS - 64
    nodes = [
        node("AveragePool", ["images"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]),
        *(node("Conv", ["mean", "same"], ["kept"], "pass"), node("Relu", ["kept"], ["colours"])),
        node("Conv", ["colours", "compare", "low"], ["compared"], "compare"),
        node("Sigmoid", ["compared"], ["s"]),
        node("Reshape", ["s", "rows"], ["flat"]),
        node("Concat", ["flat", "rest"], ["scores"], axis=2),
        node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    weights = {
        "same": np.eye(3, dtype=np.float32)[..., None, None],
        "compare": np.array([[8, -8, -8], [-8, 8, -8]], np.float32).reshape(2, 3, 1, 1),
        "low": np.full(2, -5, np.float32),
        "rows": np.array([1, 2, 64]),
        "rest": np.zeros((1, 2, cells), np.float32),
        "boxes": squares._boxes(0),
    }
    outputs = [("output0", (1, 6, squares.CELLS))]
    squares.write(path, nodes, weights, [("images", (1, 3, 64, 64))], outputs, names=squares.NAMES)
    return load(path)


@pytest.fixture(scope="module")
def images() -> ImageBatches:
    """Squares of every brightness."""
    random, shown = np.random.default_rng(1), []
    for _ in range(15):
        cells = [(int(c % 8), int(c // 8), int(random.integers(2))) for c in random.choice(64, 10, replace=False)]
        image = squares.image(cells)
        for column, row, _ in cells:
            part = image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            part[:] = (part * random.uniform(0.5, 1)).astype(np.uint8)
        shown.append(image)
    return ImageBatches(lambda: shown, SPEC.input)


def shifted(detector: ModelProto, images: ImageBatches, scale: float, offsets: list[float]) -> Recovered:
    result = recover(detector, images)
    layers = score_layers(result.quantized, images, 2)
    float_model, quantized = (mapped(m, layers, scale, np.array(offsets)) for m in (result.model, result.quantized))
    return replace(result, model=float_model, quantized=quantized)


def test_shifted_confidences_come_back(detector: ModelProto, images: ImageBatches) -> None:
    corrected = correct_confidences(detector, shifted(detector, images, 0.85, [-0.5, 0.2]), images, SPEC)
    assert corrected.before is not None and corrected.after is not None and not corrected.why
    assert corrected.before.median > 0.05 > 0.012 > corrected.after.median
    assert corrected.after.images == 5  # the other ten are for the fit
    assert f"{corrected.before.median:.3f} (median)" in corrected.note
    measure = shift_meter(detector, images, SPEC)
    moved = shifted(detector, images, 0.85, [-0.5, 0.2])
    assert measure(moved.quantized) == pytest.approx(corrected.after.median), "the shift that a correction leaves"
    names = [n.op_type for n in corrected.result.quantized.graph.node]
    assert names.count("QuantizeLinear") == 2 and corrected.result.report.share > 0


def test_without_a_shift_or_an_exact_way_nothing_changes(
    detector: ModelProto, images: ImageBatches, tmp_path: Path
) -> None:
    result = recover(detector, images)
    same = correct_confidences(detector, result, images, SPEC)
    assert same.result is result and same.why == NO_BETTER and same.before == same.after
    few = ImageBatches(lambda: list(images.frames(15))[:2], SPEC.input)
    list(few())
    moved = shifted(detector, images, 0.85, [-0.5, 0.2])
    uncorrected = correct_confidences(detector, moved, few, SPEC)
    assert uncorrected.result is moved and uncorrected.why == TOO_FEW
    assert uncorrected.after is not None and uncorrected.after.images == 2
    clipped = load(squares.chained(tmp_path / "clip.onnx"))  # confidences from Clip
    other = recover(clipped, images)
    corrected = correct_confidences(clipped, other, images, SPEC)
    assert corrected.why == NOT_EXACT and corrected.after is not None
    assert shift_meter(clipped, images, SPEC)(other.quantized) == corrected.after.median
    black = ImageBatches(lambda: [0 * frame for frame in images.frames(2)], SPEC.input)
    with pytest.raises(CalibrationError, match="detects nothing on the images: pass images with objects"):
        shift_meter(clipped, black, SPEC)(other.quantized)
    pose = SPEC.model_copy(update={"head": "yolov8-pose"})  # a keypoint's visibility is a Sigmoid too
    assert _exact_layers(result.quantized, images, SPEC) and not _exact_layers(result.quantized, images, pose)
