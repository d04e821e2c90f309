"""Every family through the whole pipeline, in networks that produce its raw outputs; generates
docs/reference/models.md.

`EDGESPARSE_RECORD=1 pytest tests/runtime/heads/test_models_page.py` writes the page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import CONF, PIXEL, Case, sigma
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgesparse.backends import backend
from edgesparse.backends.frames import Plane, Strided
from edgesparse.builder.prepare import find_head, layout_of, specify
from edgesparse.config import DetectorSpec, Run, parse
from edgesparse.head_table import HEAD_ALIASES, HEADS
from edgesparse.int8.calibration import CalibrationOptions, calibrate
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.model.load import Model, info, load, save
from edgesparse.runtime.agree import agreement
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.registry import head
from edgesparse.sparsity.prune import prune

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "models.md"
CASES: dict[str, Case] = {}
for file in sorted(Path(__file__).parent.glob("test_head_*.py")):
    for entry in getattr(import_module(file.stem), "CASES", ()):
        CASES.setdefault(entry.head, entry)
CHANNELS = 32


@dataclass(frozen=True)
class Row:
    """Result of running one family."""

    recognized: str
    kernel: bool
    int8: bool
    """Whether the network detects the same after `quantize`."""
    sparse: bool
    """Whether it does after `prune`."""


def convolutions(flat: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Weights that write `flat` from a channel that is 1 for every image, and from others that depend on the image and
    change the values by about a millionth."""
    random = np.random.default_rng(0)
    stem = random.uniform(-0.3, 0.3, (CHANNELS, 3, 1, 1)).astype(np.float32)
    middle = random.uniform(-0.1, 0.1, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
    last = random.normal(0, 1e-6, (len(flat), CHANNELS, 1, 1)).astype(np.float32)
    first = np.eye(1, CHANNELS, dtype=np.float32)[0]
    stem[0], middle[0] = 0, first.reshape(CHANNELS, 1, 1)
    last *= np.abs(flat)[:, None, None, None]
    last[:, 0, 0, 0] = flat
    return {"stem_w": stem, "ones": first, "middle_w": middle, "head_w": last}


def network(case: Case, path: Path) -> Path:
    """Write a network whose last convolution writes the raw outputs."""
    values = {name: np.asarray(value) for name, value in case.outputs.items()}
    flat = np.concatenate([value.astype(np.float32).ravel() for value in values.values()])
    weights: dict[str, NDArray[Any]] = {
        **convolutions(flat),
        "whole": (flat == np.rint(flat)).reshape(1, -1, 1, 1),
        "sizes": np.array([value.size for value in values.values()], np.int64),
        **{f"{name}_shape": np.array(value.shape, np.int64) for name, value in values.items()},
    }
    make = helper.make_node
    parts = [f"{name}_part" for name in values]
    nodes = [
        make("GlobalAveragePool", ["images"], ["mean"]),
        make("Conv", ["mean", "stem_w", "ones"], ["stem"], "stem"),
        make("Relu", ["stem"], ["one"]),
        make("Conv", ["one", "middle_w"], ["two"], "middle"),
        make("Relu", ["two"], ["three"]),
        make("Conv", ["three", "head_w"], ["raw"], "head"),
        make("Round", ["raw"], ["rounded"]),  # class ids stay integers, like those of an ArgMax
        make("Where", ["whole", "rounded", "raw"], ["all"]),
        make("Split", ["all", "sizes"], parts, axis=1),
    ]
    for name, value in values.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(make("Reshape", [f"{name}_part", f"{name}_shape"], [f"{name}_f"]))
        nodes.append(make("Cast", [f"{name}_f"], [name], to=kind))
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *case.size])
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "family", [image], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(case.metadata))
    onnx.save(model, path)
    return path


def specified(path: Path, case: Case) -> DetectorSpec:
    """As in a build: the head follows from one inference, and everything else from the head."""
    recipe = parse({"model": str(path), "head": case.head if case.named else "auto"}, "recipe")
    if head(case.head).classes(case.layout) is None:
        count = max(int(row[5]) for row in case.expected) + 1
        recipe = recipe.model_copy(update={"classes": tuple(map(str, range(count)))})
    network = info(load(path))
    with backend("onnxruntime").load(path) as runner:
        layout = layout_of(runner, recipe, network)
        return specify(recipe, network, find_head(recipe, network, runner, layout), layout)


def detect(path: Path, spec: DetectorSpec) -> Detections:
    frame = np.full((*spec.input.size, 3), 99, np.uint8)
    with Detector(backend("onnxruntime").load(path), spec, Run(conf=CONF)) as detector:
        return detector(frame)


def assert_right(detections: Detections, case: Case) -> None:
    """Each detection is one of the case's candidates, clipped to the frame, and the most confident box is there."""
    height, width = case.size
    expected = np.array([row[:6] for row in case.expected])
    boxes = np.clip(expected[:, :4], 0, [width, height, width, height])
    seen = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    assert len(detections) and seen.any()
    for box, score, label in zip(detections.xyxy, detections.confidence, detections.class_id, strict=True):
        near = (np.abs(boxes - box).max(axis=1) <= PIXEL) & (np.abs(expected[:, 4] - score) < 1e-3)
        assert (near & (expected[:, 5] == label)).any()
    assert np.isclose(detections.confidence[0], expected[seen, 4].max(), atol=1e-3)


def gathered(at: Strided, outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """The values that the kernel edgesparse/backends/cuda/compact.cuh computes: x1, y1, x2, y2, score and class per
    row."""
    flat = [output.ravel().astype(np.float64) for output in outputs]  # of one image
    rows, candidate = [], 0
    for level in at.planes:
        for r in range(level.candidates):
            boxes = values(flat, level.boxes, r, 4 * (at.bins or 1))
            raw = values(flat, level.scores, r, at.classes)
            objectness = None if level.objectness is None else values(flat, level.objectness, r, 1)[0]
            scores = confidences(at, raw, objectness)
            prior = None if at.priors is None else at.priors[candidate].astype(np.float64)
            rows.append((*box(at, prior, boxes), scores.max(), int(np.argmax(scores))))
            candidate += 1
    return np.array(rows)


def values(flat: Sequence[NDArray[np.float64]], plane: Plane, r: int, count: int) -> NDArray[np.float64]:
    return np.array([flat[plane.output][plane.first + r * plane.row + k * plane.step] for k in range(count)])


def confidences(at: Strided, raw: NDArray[np.float64], objectness: float | None) -> NDArray[np.float64]:
    chance, shares = 1.0 if objectness is None else objectness, raw
    if at.scores != "confidences":
        chance = 1.0 if objectness is None else sigma(objectness)
        shares = np.exp(raw) / np.exp(raw).sum() if at.scores == "softmax" else np.array([*map(sigma, raw)])
    scores: NDArray[np.float64] = chance ** at.powers[0] * shares ** at.powers[1]
    return scores


Function = Callable[[float], float]
OFFSETS: dict[str, Function] = {"exp": lambda v: v, "sigmoid": sigma, "tanh": np.tanh}
FACTORS: dict[str, Function] = {"exp": np.exp, "square": lambda v: (2 * sigma(v)) ** 2, "sigmoid": sigma}


def box(at: Strided, prior: NDArray[np.float64] | None, values: NDArray[np.float64]) -> tuple[float, ...]:
    if prior is not None:
        (x, y), (across, down), (width, height) = prior.reshape(3, 2)
    if at.kind == "bins":
        weights = np.exp(values.reshape(4, at.bins))
        values = (weights / weights.sum(axis=1, keepdims=True)) @ np.arange(at.bins)
    if at.kind in ("bins", "distances"):
        left, top, right, bottom = values
        return x - left * across, y - top * down, x + right * across, y + bottom * down
    a, b, c, d = values.tolist()
    if at.kind == "corners":
        return a, b, c, d
    if at.kind != "center-size":
        c, d = (min(value * at.exponent[0], at.exponent[1]) for value in (c, d))
        first, last = at.kind.split("-")[0], at.kind.split("-")[-1]
        a, b = x + OFFSETS[first](a) * across, y + OFFSETS[first](b) * down
        c, d = FACTORS[last](c) * width, FACTORS[last](d) * height
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


def examined(case: Case, folder: Path) -> Row:
    path = network(case, folder / "family.onnx")
    spec = specified(path, case)
    assert spec.head == case.head
    detections = detect(path, spec)
    assert_right(detections, case)
    strided = head(case.head).strided(case.layout)
    if strided is not None:
        rows = gathered(strided, [np.asarray(value, np.float32) for value in case.outputs.values()])
        kept = rows[rows[:, 4] >= CONF]
        np.testing.assert_allclose(sorted(kept.tolist()), sorted(map(list, case.expected)), atol=PIXEL)
    recognized = "by metadata" if case.metadata else "by name" if case.named else "yes"
    smaller = (pruned(path), quantized(path))
    sparse, int8 = (_same(detections, model, folder, spec) for model in smaller)
    return Row(recognized, strided is not None, int8, sparse)


def pruned(path: Path) -> Model:
    """The network after `prune`: all convolutions that can be are 2:4."""
    model = load(path)
    assert [layer.name for layer in prune(model).changed] == ["middle", "head"]
    return model


def quantized(path: Path) -> Model:
    """The network after `quantize`, calibrated on images: all convolutions but the last are INT8."""
    model = load(path)
    shape = [side or 1 for side in info(model).inputs["images"]]
    images = np.random.default_rng(2).random((2, *shape)).astype(np.float32)
    ranges = calibrate(model, lambda: iter(images), CalibrationOptions("max"), tensors=quantized_tensors(model))
    small, report = quantize(model, {name: amax / 127 for name, amax in ranges.amax.items()})
    assert [layer.name for layer in report.layers if layer.int8] == ["stem", "middle"]
    return small


def shapes(detections: Detections) -> NDArray[Any]:
    """Areas of masks, keypoints in pixels, and rotated boxes, of all detections."""
    areas = np.array([mask.area for mask in detections.masks or ()], np.float64)
    rest = [values for values in (detections.keypoints, detections.rotated) if values is not None]
    return np.concatenate([areas, *(values.ravel() for values in rest)])


def _same(detections: Detections, model: Model, folder: Path, spec: DetectorSpec) -> bool:
    save(model, folder / "small.onnx")
    small = detect(folder / "small.onnx", spec)
    same = agreement([(detections, small)])
    return min(same.recall, same.precision) == 1 and shapes(detections) == pytest.approx(shapes(small), rel=0.02, abs=1)


def page(rows: dict[str, Row]) -> str:
    lines = [TOP]
    for name, row in rows.items():
        columns = (row.recognized, "yes", "yes" if row.kernel else "on the CPU")
        marks = ["yes" if mark else "no" for mark in (row.int8, row.sparse)]
        lines.append(f"| `{name}` | {' | '.join((*columns, *marks))} |")
    lines.append(MIDDLE)
    for name in rows:
        family = head(name)
        look = family.convention
        scale = "0..1" if look.scale < 1 else "0..255"
        normal = "" if look.mean == (0, 0, 0) else f", mean {_numbers(look.mean)}, std {_numbers(look.std)}"
        other = {"stretch": "stretched", "crop": "cropped to the center"}
        aspect = other.get(look.letterbox, f"letterbox {look.letterbox} on {look.pad}")
        also = ", ".join(f"`{alias}`" for alias, of in HEAD_ALIASES.items() if of == name)
        lines += [
            f"### {name}\n",
            f"- Outputs: {family.outputs}",
            f"- Input: {look.colour.upper()} {scale}, {aspect}{normal}",
            f"- NMS: {'yes' if family.nms else 'not needed'}",
            f"- Export: {family.export}",
            f"- Source: {family.source}",
            *([f"- Also: {also}"] if also else []),
            "",
        ]
    return "\n".join(lines)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


TOP = f"""\
<!-- Written by tests/runtime/heads/test_models_page.py: do not edit. -->
# Families of detectors

`head:` in a recipe is `auto`, or one of these. Each row is from a test run on a network with the family's outputs:

- **recognized**: by the shapes, names and values of its outputs alone, or by the task in the file's metadata. Otherwise
  a recipe names it, as nothing in such a file tells; what `edgesparse slim` writes names it in the file.
- **right**: boxes are those of a decoding that the test writes from the published formula, within {PIXEL} pixels.
- **GPU kernel**: a kernel finds the boxes on the GPU; otherwise the raw outputs are copied and NumPy decodes them.
- **INT8**: the boxes are the same after `quantize`, calibrated on images: all convolutions are INT8 but the last, which
  writes the raw outputs and stays in float, as in every network. **2:4**: they are the same after `prune`, which makes
  those convolutions 2:4. Both show that the family's outputs pass through, not what INT8 and 2:4 cost a trained network
  in accuracy: [Exporters tested](../results/models.md#trained-networks) has seven, and a build's gate measures yours.

| head | recognized | right | GPU kernel | INT8 | 2:4 |
|---|---|---|---|---|---|"""
MIDDLE = "\n## Layouts\n\nB is the batch size, N the number of boxes, C the number of classes.\n"


def test_every_head_has_a_case() -> None:
    assert set(CASES) == set(HEADS)


@pytest.mark.parametrize("name", HEADS)
def test_its_boxes_are_those_of_the_formula(name: str) -> None:
    CASES[name].check()


def test_the_page_of_families_is_what_a_run_shows(tmp_path: Path) -> None:
    text = page({name: examined(CASES[name], tmp_path) for name in HEADS})
    if os.environ.get("EDGESPARSE_RECORD"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "run this test with EDGESPARSE_RECORD=1, and commit docs/reference/models.md"
