"""Q/DQ files: what they compute, what they preserve, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import patterns
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from patterns import PATTERNS, WIDTH
from small_models import Array, model, node, random, run

from edgesparse.errors import CalibrationError, ModelError
from edgesparse.int8.placement import Placement, plan
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.model.layers import layer_name
from edgesparse.model.weights import weight_of
from edgesparse.model.wiring import Wiring, attribute
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.mask import mask_2to4, violations

Floats = npt.NDArray[np.float32]


def entry(network_model: ModelProto) -> Floats:
    return random(*(dim.dim_value for dim in network_model.graph.input[0].type.tensor_type.shape.dim), seed=7)


def values(network_model: ModelProto, x: Floats) -> dict[str, Floats]:
    """Every tensor of `network_model`, computed node by node with ONNX's own NumPy evaluator, without rounding."""
    return fake_quantized(network_model, x, {}, {}, {})


def fake(x: Floats, scale: Floats | float) -> Floats:
    """Round to the INT8 grid and convert back."""
    return (np.clip(np.rint(x / np.float32(scale)), -128, 127) * np.float32(scale)).astype(np.float32)


def fake_quantized(
    network_model: ModelProto,
    x: Floats,
    readers: Mapping[str, Mapping[str, set[int]]],
    scales: Mapping[str, float],
    rounded: Mapping[str, Floats],
) -> dict[str, Floats]:
    """Every tensor of the float model if `readers` read rounded values and stored tensors are replaced by `rounded`."""
    at = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in network_model.graph.initializer}
        | {"x": x}
        | dict(rounded)
    )
    for each in network_model.graph.node:
        inputs = {}
        for i, name in enumerate(each.input):
            by = readers.get(name, {}).get(each.output[0], set())
            inputs[f"i{i}"] = fake(at[name], scales[name]) if i in by else at.get(name)
        alone = onnx.NodeProto()
        alone.CopyFrom(each)
        alone.input[:] = [f"i{i}" if name else "" for i, name in enumerate(each.input)]
        at |= dict(zip(each.output, _run_alone(alone, inputs), strict=True))
    return at


def _run_alone(each: onnx.NodeProto, inputs: Mapping[str, Floats | None]) -> list[Floats]:
    fed = {name: value for name, value in inputs.items() if value is not None}
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in fed.items()}
    entries = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph([each], "one", entries, [onnx.ValueInfoProto(name=name) for name in each.output])
    alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network_model: list[Floats] = ReferenceEvaluator(alone).run(None, fed)  # type: ignore[assignment]
    return network_model


def scales_of(network_model: ModelProto, x: Floats, placement: Placement = "fuse") -> dict[str, float]:
    """The scale of each quantized tensor: its largest magnitude for `x`, slightly clipped, divided by 127."""
    at = values(network_model, x)
    return {name: 0.9 * float(np.abs(at[name]).max()) / 127 for name in quantized_tensors(network_model, placement)}


def rounded_weights(network_model: ModelProto) -> dict[str, Floats]:
    """The INT8 layers' weights rounded to their grids: symmetric, one scale per output channel."""
    results = {}
    for kernel in plan(network_model).kernels:
        weight, axis = kernel.weight.values, 1 if kernel.node.op_type in ("ConvTranspose", "MatMul") else 0
        axis = 1 - kernel.weight.axis if kernel.node.op_type == "Gemm" else axis
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
        results[kernel.weight.source] = fake(weight, scale)
    return results


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_result_matches_numpy(pattern: str) -> None:
    network_model = PATTERNS[pattern]()
    x = entry(network_model)
    scales = scales_of(network_model, x)
    result, report = quantize(network_model, scales)
    onnx.checker.check_model(result, full_check=True)
    expected = fake_quantized(
        network_model, x, plan(network_model).readers, report.scales, rounded_weights(network_model)
    )["y"]
    results, plain = run(result, x)[0], values(network_model, x)["y"]
    step = np.abs(expected - plain).max()
    assert 0 < step < 0.2 * np.abs(plain).max()
    # a sum halfway between two steps may be rounded either way
    assert np.mean(np.isclose(results, expected, atol=1e-4)) > 0.97 and np.abs(results - expected).max() < step


def test_the_sparse_placement_matches_numpy() -> None:
    network_model = sparse_and_dense()
    x = entry(network_model)
    result, report = quantize(network_model, scales_of(network_model, x, "sparse"), placement="sparse")
    expected = fake_quantized(
        network_model, x, plan(network_model, "sparse").readers, report.scales, rounded_weights(network_model)
    )["y"]
    results = run(result, x)[0]
    assert set(report.scales) == {"x", "a", "p"} and report.layers[0].why == "INT8, weights 2:4"
    assert np.mean(np.isclose(results, expected, atol=1e-4)) > 0.97


def sparse_and_dense() -> ModelProto:
    """a (2:4), SiLU, b (dense), head."""
    weights = {f"{name}.w": random(32, 32, 1, 1, seed=i) / 6 for i, name in enumerate("abh")}
    weights["a.w"] = np.where(mask_2to4(weights["a.w"]), weights["a.w"], np.float32(0))
    nodes = [node("Conv", ["x", "a.w"], ["a"], "a"), *patterns.silu("a", "p"), node("Conv", ["p", "b.w"], ["b"], "b")]
    return model([*nodes, node("Conv", ["b", "h.w"], ["y"], "head")], weights, (1, 32, 4, 4))


def test_tensors_that_share_a_scale_get_the_largest() -> None:
    network_model = patterns.sppf()
    scales = {name: 0.01 * i for i, name in enumerate(quantized_tensors(network_model), 1)}
    _, report = quantize(network_model, scales)
    assert {report.scales[name] for name in ("r", "p1", "p2", "p3", "cat")} == {np.float32(max(scales.values()))}
    assert report.scales["x"] == np.float32(scales["x"])


def test_scales_are_checked_and_a_dead_tensor_gets_one() -> None:
    network_model = patterns.silu_chain()
    with pytest.raises(CalibrationError, match="no scale for the tensor as: calibrate"):
        quantize(network_model, {"x": 1.0})
    for wrong in (np.nan, np.inf, -0.5):
        with pytest.raises(CalibrationError, match="the scale of the tensor as is"):
            quantize(network_model, {"x": 1.0, "as": wrong})
    _, report = quantize(network_model, {"x": 0.0, "as": 1e-41})
    assert report.scales == {"x": 1.0, "as": float(np.finfo(np.float32).tiny)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(value: float) -> None:
    network_model = patterns.silu_chain()
    at = next(tensor for tensor in network_model.graph.initializer if tensor.name == "a.w")
    broken = numpy_helper.to_array(at).copy()
    broken[0, 0] = value
    at.CopyFrom(numpy_helper.from_array(broken, "a.w"))
    with pytest.raises(ModelError, match="a: weights hold NaN or infinity"):
        quantize(network_model, {"x": 1.0, "as": 1.0})


def layer_values(network_model: ModelProto, name: str) -> Array:
    wiring = Wiring(network_model.graph)
    return weight_of(wiring, next(each for each in network_model.graph.node if each.name == name)).values


WEIGHTS = hnp.arrays(
    np.float32,
    (32, 32, 1, 1),
    elements=st.floats(-10, 10, width=32, allow_subnormal=True) | st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 1e-30]),
)


@settings(max_examples=30)
@given(WEIGHTS, st.booleans())
def test_zeros_stay_zero_and_weights_move_half_a_step_at_most(weight: Floats, dead: bool) -> None:
    weight = np.where(mask_2to4(weight), weight, np.float32(0))
    weight[3] = 0 if dead else weight[3]
    network_model = sparse_and_dense()
    network_model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "a.w"))
    result, _ = quantize(network_model, dict.fromkeys(quantized_tensors(network_model), 0.1))
    results = layer_values(result, "a")
    assert violations(results)[0] == 0 and not results[weight == 0].any() and np.isfinite(results).all()
    step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    assert (np.abs(results - weight) <= 0.5001 * step + np.finfo(np.float32).tiny).all()
    scales = stored(result, "a.weight_scale")
    assert (scales >= np.finfo(np.float32).tiny).all() and np.isfinite(scales).all()


def stored(network_model: ModelProto, name: str) -> Array:
    return next(numpy_helper.to_array(tensor) for tensor in network_model.graph.initializer if tensor.name == name)


def scale_and_axis(network_model: ModelProto, layer: str) -> tuple[tuple[int, ...], int | None]:
    """Shape of a layer's weight scales, and the axis of its DequantizeLinear."""
    wiring = Wiring(network_model.graph)
    needed = next(each for each in network_model.graph.node if each.name == layer)
    last = next(wiring.producer[name] for name in needed.input[:2] if "weight" in name)
    axis = [attribute.i for attribute in last.attribute if attribute.name == "axis"]
    return stored(network_model, last.input[1]).shape, axis[0] if axis else None


def test_scales_are_along_the_output_channels() -> None:
    def of(network_model: ModelProto, layer: str) -> tuple[tuple[int, ...], int | None]:
        return scale_and_axis(quantize(network_model, dict.fromkeys(quantized_tensors(network_model), 1.0))[0], layer)

    assert of(patterns.depthwise(), "d") == ((WIDTH,), 0) and of(patterns.depthwise(), "a") == ((WIDTH,), 0)
    assert of(patterns.transposed(), "t") == ((WIDTH,), 1)
    assert of(patterns.transposed(group=2), "t") == ((), None)
    assert of(patterns.gemm(), "a") == ((16,), 1) and of(patterns.gemm(), "b") == ((16,), 0)
    assert of(patterns.gemm(), "c") == ((16,), 1)


def test_weights_behind_moves_are_stored_as_the_layer_reads_them() -> None:
    nodes = [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["a"], "a")]
    weight = random(24, 16)
    network_model = model(
        [*nodes, node("MatMul", ["a", "h"], ["y"], "head")], {"w": weight, "h": random(24, 4)}, (4, 16)
    )
    result, _ = quantize(network_model, {"x": 0.02})
    assert {each.op_type for each in result.graph.node} == {"QuantizeLinear", "DequantizeLinear", "MatMul"}
    assert "w" not in {tensor.name for tensor in result.graph.initializer}
    assert np.allclose(layer_values(result, "a"), weight.T, atol=0.02)


def test_a_stored_weight_may_serve_an_int8_and_a_float_layer() -> None:
    nodes = [node("Conv", ["x", "w"], ["a"], "a"), node("Conv", ["a", "w"], ["b"], "b")]
    network_model = model([*nodes, node("Conv", ["b", "w"], ["y"], "head")], {"w": random(8, 8, 1, 1)}, (1, 8, 4, 4))
    result, report = quantize(network_model, {"x": 0.02, "a": 0.1})
    assert [layer.int8 for layer in report.layers] == [True, True, False]
    head = next(each for each in result.graph.node if each.name == "head")
    assert head.input[1] == "w" and np.isfinite(run(result)[0]).all()


def test_existing_names_are_not_reused() -> None:
    network_model = patterns.silu_chain()
    network_model.graph.node[0].output[0] = "x_q"
    network_model.graph.node[1].input[0] = network_model.graph.node[2].input[0] = "x_q"
    result, _ = quantize(network_model, {"x": 0.02, "as": 0.02})
    onnx.checker.check_model(result, full_check=True)


def test_the_model_itself_stays_and_quantizing_twice_is_refused() -> None:
    network_model = patterns.residual()
    before = network_model.SerializeToString()
    result, _ = quantize(network_model, dict.fromkeys(quantized_tensors(network_model), 0.1))
    assert network_model.SerializeToString() == before
    with pytest.raises(ModelError, match="already has 16 Q/DQ operators"):
        quantize(result, {})


def test_the_report_lists_int8_layers_and_reasons() -> None:
    network_model = patterns.distances()
    _, report = quantize(network_model, {"x": 0.1, "ar": 0.1})
    assert [(layer.name, layer.int8) for layer in report.layers] == [
        ("a", True),
        ("next", True),
        ("box", False),
        ("class", False),
        ("dfl", False),
    ]
    macs = {layer.name: layer.macs or 0 for layer in report.layers}
    assert report.share == pytest.approx((macs["a"] + macs["next"]) / sum(macs.values()))
    assert json.loads(json.dumps(report.as_dict()))["layers"][4]["why"].startswith("decodes boxes")


@pytest.mark.parametrize("placement", ["fuse", "sparse"])
def test_inspect_reads_the_written_model(placement: Placement) -> None:
    network_model = sparse_and_dense()
    result, _ = quantize(
        network_model, dict.fromkeys(quantized_tensors(network_model, placement), 0.1), placement=placement
    )
    layer, dense, head = inspect(result).layers
    assert [layer.state, dense.state, head.state] == ["sparse", "dense", "dense"]
    assert layer.macs == dense.macs == 32 * 32 * 16
    blocked = [doubt for doubt in layer.doubts if doubt.startswith("INT8")]
    assert ("SiLU follows" in blocked[0]) if placement == "fuse" else not blocked
    assert "stays float in this model" in head.doubts[-1]


def test_the_real_network(real: object) -> None:
    network_model = onnx.load(f"{real}/models/yolox_nano.onnx")
    names = quantized_tensors(network_model)
    result, report = quantize(network_model, dict.fromkeys(names, 0.5))
    onnx.checker.check_model(result, full_check=True)
    assert report.opset == (11, 13) and report.share > 0.95
    outside = {layer.name for layer in report.layers if not layer.int8}
    assert outside == {layer_name(n) for n in network_model.graph.node if n.op_type == "Conv" and "preds" in n.input[1]}
    assert [layer.macs for layer in inspect(result).layers] == [layer.macs for layer in inspect(network_model).layers]
    sums = [each for each in result.graph.node if each.op_type == "Add"]
    assert all([name.endswith("_dq") for name in each.input].count(True) == 1 for each in sums)


@pytest.mark.parametrize("name", ["parts_dense", "parts_2to4"])
def test_the_default_detectors(name: str) -> None:
    network_model = onnx.load(f"edgesparse/demo/{name}.onnx")
    for placement in ("fuse", "sparse"):
        result, report = quantize(
            network_model, dict.fromkeys(quantized_tensors(network_model, placement), 0.1), placement=placement
        )
        sparse = {layer.name for layer in inspect(network_model).layers if layer.state == "sparse"}
        after = {layer.name: layer for layer in inspect(result).layers}
        assert all(after[layer].state == "sparse" for layer in sparse) and report.share > 0.99
        heads = {layer.name for layer in report.layers if not layer.int8}
        blocked = {name for name in sparse if any(d.startswith("INT8") for d in after[name].doubts)}
        assert blocked <= heads or placement == "fuse"


def test_convolutions_have_their_kernel_shape() -> None:
    """TensorRT 8.5 cannot parse a convolution with quantized weights that omits it, as ONNX allows."""
    network_model = PATTERNS["residual"]()
    for each in network_model.graph.node:
        kept = [a for a in each.attribute if a.name != "kernel_shape"]
        del each.attribute[:]
        each.attribute.extend(kept)
    written, _ = quantize(network_model, dict.fromkeys(quantized_tensors(network_model), 0.1))
    message = {n.output[0]: attribute(n, "kernel_shape") for n in written.graph.node}
    needed = {k.node.output[0]: list(k.weight.values.shape[2:]) for k in plan(network_model).kernels}
    assert needed and {name: message[name] for name in needed} == needed


def test_a_layer_that_nothing_reads_is_not_written() -> None:
    nodes = [
        patterns.conv("a", "x", "a"),
        patterns.conv("unread", "a", "unread"),
        patterns.relu("a", "ar"),
        patterns.conv("head", "ar", "y"),
    ]
    source = model(
        nodes, patterns.weights("a") | patterns.weights("unread") | patterns.weights("head"), (1, WIDTH, 4, 4)
    )
    result, _ = quantize(source, dict.fromkeys(quantized_tensors(source), 0.1))
    assert "unread" not in {entry.name for entry in result.graph.node}
