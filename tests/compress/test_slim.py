"""Rewritten detectors detect what the originals do, with fewer kernels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from small_models import model, node

from benchmarks.orin_slice import networks
from edgesparse.compress import SlimOptions, SlimReport, rewrite, slim
from edgesparse.compress.check import Original
from edgesparse.compress.selections import fold_selections
from edgesparse.compress.sites import Site, Way
from edgesparse.errors import ModelError
from edgesparse.model.load import load
from edgesparse.runtime.heads.recognize import HEAD_KEY


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A YOLOv8 narrow enough for a test, with the wiring of the large ones."""
    monkeypatch.setitem(networks.SCALES, "tiny", (1 / 3, 0.125, 256))


def kept(report: SlimReport) -> set[str]:
    return {step.rewrite for step in report.steps if step.kept}


@pytest.mark.usefixtures("tiny")
def test_a_yolov8_keeps_its_boxes_with_fewer_kernels() -> None:
    network = networks.yolov8("tiny", "silu", 64, 3)
    slimmed, report = slim(network)
    assert report.head == "yolov8-maps" and {"maps", "selections"} <= kept(report)
    assert report.after.kernels <= 0.7 * report.before.kernels and report.after.ms < report.before.ms
    assert not {"Split", "Softmax", "Transpose"} & {node.op_type for node in slimmed.graph.node}
    steps = [step for step in report.steps if step.kept]
    assert sum(step.saved_kernels for step in steps) == report.before.kernels - report.after.kernels
    assert sum(step.saved_ms for step in steps) == pytest.approx(report.before.ms - report.after.ms)
    # checked again by running both files
    change = Original(network, "yolov8").change(slimmed, "yolov8-maps")
    assert change.pixels < 0.5 and change.score < 0.002
    assert {entry.key: entry.value for entry in slimmed.metadata_props}[HEAD_KEY] == "yolov8-maps"


@pytest.mark.usefixtures("tiny")
def test_with_its_decoding_kept_a_network_has_the_same_outputs() -> None:
    network = networks.yolov8("tiny", "relu", 64, 3)
    slimmed, report = slim(network, SlimOptions(maps=False))
    assert report.head == "yolov8" and "maps" not in kept(report)
    assert [output.name for output in slimmed.graph.output] == ["output0"] and not slimmed.metadata_props


@pytest.mark.usefixtures("tiny")
def test_a_result_that_differs_by_more_than_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(network: ModelProto) -> ModelProto:
        """A rewrite that seems worthwhile but doubles the first weights."""
        slimmed = next(iter(fold_selections(network))).ways[0].apply()
        weight = next(tensor for tensor in slimmed.graph.initializer if len(tensor.dims) == 4)
        weight.raw_data = (2 * np.frombuffer(weight.raw_data, np.float32)).tobytes()
        return slimmed

    def broken(network: ModelProto) -> list[Site]:
        return [Site("the first split", (Way("folded badly", partial(damaged, network)),))]

    monkeypatch.setattr(rewrite, "REWRITES", {"broken": broken})
    with pytest.raises(ModelError, match=r"differs by .* use the original"):
        slim(networks.yolov8("tiny", "relu", 64, 3), SlimOptions(maps=False))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "rewrites"),
    [
        ("yolox_nano", {"maps", "focus", "parallel"}),
        ("nanodet_m_416", {"maps", "selections", "padding"}),
        ("FastestDet", {"maps"}),
    ],
)
def test_real_detectors_keep_their_boxes(real: Path, name: str, rewrites: set[str]) -> None:
    _, report = slim(load(real / "models" / f"{name}.onnx"))
    assert report.head is not None and report.head.endswith("-maps") and rewrites <= kept(report)
    assert report.change.pixels < 0.5 and report.change.score < 0.002 and report.after.ms < report.before.ms


def test_a_quantized_model_is_refused() -> None:
    nodes = [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])]
    with pytest.raises(ModelError, match="slim the float model"):
        slim(model(nodes, {"s": np.array(0.1, np.float32)}, (1, 3, 32, 32)))
