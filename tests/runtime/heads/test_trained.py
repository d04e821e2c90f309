"""Trained networks of other families: boxes equal those of their authors' formulas on ONNX Runtime's raw outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cases import PIXEL, Values, best, cells, sigma
from numpy.typing import NDArray

from edgesparse.builder.prepare import find_head, layout_of, open_static, specify
from edgesparse.config import Run, parse
from edgesparse.model.load import info, load
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.images import read_image
from edgesparse.runtime.preprocess import Preprocessor

CONF = 0.3
Raw = dict[str, NDArray[np.float32]]


def yolox(raw: Raw, size: tuple[int, int]) -> Iterator[Values]:
    rows = iter(raw["output"][0].astype(np.float64).tolist())
    for stride in (8, 16, 32):
        for _, x, y in cells(size, stride):
            cx, cy, w, h, objectness, *scores = next(rows)
            score, label = best(lambda c, s=scores, o=objectness: o * s[c], 80)  # type: ignore[misc]
            cx, cy, w, h = (cx + x) * stride, (cy + y) * stride, math.exp(w) * stride, math.exp(h) * stride
            yield cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score, label


def nanodet(raw: Raw, size: tuple[int, int]) -> Iterator[Values]:
    outputs = list(raw.values())
    for stride in (8, 16, 32):
        count = len([*cells(size, stride)])
        scores = next(out for out in outputs if out.shape[1:] == (count, 80))[0]
        bins = next(out for out in outputs if out.shape[1:] == (count, 32))[0].astype(np.float64)
        for number, x, y in cells(size, stride):
            score, label = best(lambda c, n=number, s=scores: float(s[n, c]), 80)  # type: ignore[misc]
            weights = [[math.exp(value) for value in side] for side in bins[number].reshape(4, 8).tolist()]
            left, top, right, bottom = (
                stride * sum(i * weight for i, weight in enumerate(side)) / sum(side) for side in weights
            )
            cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
            yield cx - left, cy - top, cx + right, cy + bottom, score, label


def fastestdet(raw: Raw, size: tuple[int, int]) -> Iterator[Values]:
    (output,) = raw.values()
    for _, x, y in cells(size, 16):
        objectness, dx, dy, w, h, *scores = output[0, :, y, x].astype(np.float64).tolist()
        score, label = best(lambda c, s=scores, o=objectness: o**0.6 * s[c] ** 0.4, 80)  # type: ignore[misc]
        cx, cy = (math.tanh(dx) + x) * 16, (math.tanh(dy) + y) * 16
        w, h = sigma(w) * size[1] / 2, sigma(h) * size[0] / 2
        yield cx - w, cy - h, cx + w, cy + h, score, label


def deim(raw: Raw, size: tuple[int, int]) -> Iterator[Values]:
    for label, box, score in zip(
        raw["labels"][0].tolist(), raw["boxes"][0].tolist(), raw["scores"][0].tolist(), strict=True
    ):
        yield (*box, score, label)


def ultraface(raw: Raw, size: tuple[int, int]) -> Iterator[Values]:
    for (_, score), (x1, y1, x2, y2) in zip(raw["scores"][0].tolist(), raw["boxes"][0].tolist(), strict=True):
        yield x1 * size[1], y1 * size[0], x2 * size[1], y2 * size[0], score, 0


MODELS: dict[str, tuple[str, Callable[[Raw, tuple[int, int]], Iterator[Values]]]] = {
    "yolox_nano": ("yolox", yolox),
    "nanodet_m_416": ("nanodet", nanodet),
    "FastestDet": ("fastestdet", fastestdet),
    "deimv2_atto": ("rtdetr", deim),
    "ultraface_rfb320": ("ultraface", ultraface),
}


@pytest.mark.real
@pytest.mark.parametrize("name", MODELS)
def test_boxes_of_a_trained_network_are_those_of_the_formula(name: str, real: Path) -> None:
    head, decode = MODELS[name]
    path = real / "models" / f"{name}.onnx"
    images = sorted((real / "coco_mini" / "val").glob("*.jpg"))
    frame = read_image(images[4 if head == "ultraface" else 2])
    recipe = parse({"model": str(path)}, "recipe")
    model = load(path)
    names = ("face",) if head == "ultraface" else tuple(map(str, range(80)))
    recipe = recipe.model_copy(update={"classes": names})
    with open_static(model, recipe) as runner:
        layout = layout_of(runner, recipe, info(model))
        assert find_head(recipe, info(model), runner, layout) == head
        spec = specify(recipe, info(model), head, layout)
        detections = Detector(runner, spec, Run(conf=CONF))(frame)
    size = spec.input.size
    tensor = np.zeros((1, 3, *size), np.float32)
    letterbox = Preprocessor(spec.input, tensor)(frame, 0)
    session = onnxruntime.InferenceSession(str(path))
    feeds = {"orig_target_sizes": np.array([size[::-1]], np.int64)} if head == "rtdetr" else {}
    image = next(value.name for value in session.get_inputs() if value.name not in feeds)
    outputs = session.run(None, {image: tensor, **feeds})
    raw = {value.name: np.asarray(out) for value, out in zip(session.get_outputs(), outputs, strict=True)}
    rows = np.array([row for row in decode(raw, size) if row[4] >= CONF])
    expected = letterbox.to_frame(rows[:, :4].astype(np.float32))
    assert len(detections) and np.isclose(detections.confidence[0], rows[:, 4].max(), atol=1e-4)
    for box, label in zip(detections.xyxy, detections.class_id, strict=True):
        assert np.abs(expected[rows[:, 5] == label] - box).max(axis=1).min() <= PIXEL


@pytest.mark.real
def test_the_head_of_the_example_reads_the_real_fastestdet(real: Path) -> None:
    """A head from outside detects the same as the family's own head."""
    own = f"{Path(__file__).parents[3]}/examples/09_custom_head/fastest_det.py:FastestDet"
    path = real / "models" / "FastestDet.onnx"
    frame = read_image(sorted((real / "coco_mini" / "val").glob("*.jpg"))[2])
    results = []
    for name in (own, "fastestdet"):
        recipe = parse({"model": str(path), "head": name, "classes": "coco"}, "recipe")
        model = load(path)
        with open_static(model, recipe) as runner:
            spec = specify(recipe, info(model), name, layout_of(runner, recipe, info(model)))
            results.append(Detector(runner, spec, Run(conf=CONF))(frame))
    assert len(results[0]) and results[0].names == results[1].names
    np.testing.assert_allclose(results[0].xyxy, results[1].xyxy, atol=PIXEL)
