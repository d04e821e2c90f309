"""Layers that cannot be refitted are skipped and named; the others are pruned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from small_models import model, node, random

from edgesparse.errors import SparsityError
from edgesparse.model.load import load
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.reconstruct import ReconstructOptions, reconstruct
from edgesparse.sparsity.reconstruct_report import ReconstructReport
from edgesparse.tasks.inspect import inspect_file

C = 32
BATCHES = [random(2, C, 6, 6, seed=i) for i in range(3)]


def why(report: ReconstructReport) -> dict[str, tuple[str, str]]:
    return {layer.name: (layer.state, layer.why) for layer in report.layers}


def twins() -> ModelProto:
    """A convolution with its own weights, then two that share theirs."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "own"),
        node("Conv", ["a", "w2"], ["b"], "left"),
        node("Conv", ["b", "w2"], ["y"], "right"),
    ]
    return model(nodes, {"w1": random(C, C, 1, 1), "w2": random(C, C, 1, 1, seed=1)}, (2, C, 6, 6))


def selecting() -> ModelProto:
    """A miniature detection transformer: the rows with the highest scores go through another matrix product."""
    nodes = [
        node("Conv", ["x", "w1"], ["features"], "backbone"),
        node("Reshape", ["features", "rows"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("ReduceMax", ["tokens"], ["scores"], axes=[2], keepdims=0),
        node("TopK", ["scores", "k"], ["values", "indices"], axis=1),
        node("Unsqueeze", ["indices", "last"], ["column"]),
        node("Expand", ["column", "picked"], ["index"]),
        node("GatherElements", ["tokens", "index"], ["queries"], axis=1),
        node("MatMul", ["queries", "w2"], ["decoded"], "decoder"),
        node("MatMul", ["tokens", "w3"], ["memory"], "memory"),
        node("MatMul", ["decoded", "memory_t"], ["y"], "attention"),
    ]
    nodes.insert(-1, node("Transpose", ["memory"], ["memory_t"], perm=[0, 2, 1]))
    tensors = {
        "w1": random(C, C, 1, 1),
        "w2": random(C, C, seed=1),
        "w3": random(C, C, seed=2),
        "rows": np.array([0, C, -1]),
        "k": np.array([4]),
        "last": np.array([2]),
        "picked": np.array([2, 4, C]),
    }
    return model(nodes, tensors, (2, C, 6, 6))


def test_layers_that_share_weights_stay_dense_and_are_named() -> None:
    pruned, report = reconstruct(twins(), lambda: BATCHES)
    assert [layer.state for layer in inspect(pruned).layers] == ["sparse", "dense", "dense"]
    assert why(report)["own"] == ("sparse", "requested")
    assert why(report)["left"][1].startswith("shares its weights with right")


def test_a_layer_that_shares_weights_is_refused_where_it_is_requested() -> None:
    with pytest.raises(SparsityError, match="left: shares its weights with right"):
        reconstruct(twins(), lambda: BATCHES, ReconstructOptions(layers=["left", "right"]))


def test_layers_behind_a_selection_stay_as_they_are() -> None:
    dense = selecting()
    pruned, report = reconstruct(dense, lambda: BATCHES, ReconstructOptions(reorder=False))
    states = why(report)
    assert states["backbone"][0] == states["memory"][0] == "sparse"
    assert states["decoder"] == (
        "dense",
        "behind a TopK: the pruned network selects different rows there, so it cannot be refitted",
    )
    before, after = ({t.name: t for t in m.graph.initializer}["w2"] for m in (dense, pruned))
    assert before.SerializeToString() == after.SerializeToString()
    with pytest.raises(SparsityError, match="decoder: behind a TopK"):
        reconstruct(dense, lambda: BATCHES, ReconstructOptions(layers=["decoder"]))


def test_a_detector_whose_initializers_are_listed_as_inputs(real: Path) -> None:
    nanodet = load(real / "models" / "nanodet_m_416.onnx")
    name = next(layer.name for layer in inspect(nanodet).eligible)
    batches = [random(1, 3, 416, 416, seed=i) for i in range(2)]
    pruned, _ = reconstruct(nanodet, lambda: batches, ReconstructOptions(layers=[name]))
    assert [layer.name for layer in inspect(pruned).layers if layer.state == "sparse"] == [name]


def test_a_detection_transformer_is_pruned_up_to_its_selection(real: Path) -> None:
    detector = load(real / "models" / "deimv2_atto.onnx")
    name = next(layer.name for layer in inspect(detector).eligible)
    batches = [random(1, 3, 320, 320, seed=i) for i in range(2)]
    _, report = reconstruct(detector, lambda: batches, ReconstructOptions(layers=[name], reorder=False))
    untouched = [layer for layer in report.layers if "/dec_bbox_head" in layer.name]
    assert untouched and all(layer.error is None for layer in untouched)


@pytest.mark.parametrize(
    ("imgsz", "assumed"), [(None, (1, 3, 640, 640)), ("[320, 256]", (1, 3, 320, 256)), ("[0, 0]", (1, 3, 640, 640))]
)
def test_open_shapes_are_assumed_and_stated(tmp_path: Path, imgsz: str | None, assumed: tuple[int, ...]) -> None:
    source = model([node("Conv", ["x", "w"], ["y"], "stem")], {"w": random(64, 3, 1, 1)}, ("n", 3, "h", "w"))
    helper.set_model_props(source, {"imgsz": imgsz} if imgsz else {})
    onnx.save(source, tmp_path / "open.onnx")
    result = inspect_file(tmp_path / "open.onnx")
    assert result.report.macs == 64 * 3 * assumed[2] * assumed[3]
    assert result.as_dict()["assumed_shapes"] == {"x": list(assumed)}
    shape = "x".join(map(str, assumed))
    assert result.report.notes == [f"input x has an open shape: assumed {shape}; --shape x={shape} sets another"]


def test_a_shape_that_is_set_is_not_assumed(tmp_path: Path) -> None:
    onnx.save(
        model([node("Conv", ["x", "w"], ["y"])], {"w": random(64, 3, 1, 1)}, ("n", 3, "h", "w")), tmp_path / "m.onnx"
    )
    result = inspect_file(tmp_path / "m.onnx", shapes={"x": (1, 3, 8, 8)})
    assert result.report.macs == 64 * 3 * 64 and not result.report.notes
    assert "assumed_shapes" not in result.as_dict()
