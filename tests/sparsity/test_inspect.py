"""Inspection of a layer: its pattern, through any nodes before its weights, and the reasons as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from small_models import HELD, Array, conv, model, node, random, stored_as

from edgesparse.errors import ModelError
from edgesparse.sparsity.inspect import InspectedLayer, inspect
from edgesparse.sparsity.mask import mask_2to4


def only_layer(source: ModelProto) -> InspectedLayer:
    (layer,) = inspect(source).layers
    return layer


def sparse(weight: Array, axis: int = 1) -> Array:
    return weight * mask_2to4(weight, axis)


def test_a_dense_convolution_is_eligible_and_counted() -> None:
    layer = only_layer(conv(random(32, 64, 3, 3), pads=[1, 1, 1, 1]))
    assert (layer.name, layer.op, layer.shape, layer.dtype) == ("conv", "Conv", (32, 64, 3, 3), "float32")
    assert layer.macs == 8 * 8 * 32 * 64 * 9
    assert (layer.bytes, layer.zeros) == (32 * 64 * 9 * 4, 0)
    assert (layer.groups, layer.violations, layer.state) == (32 * 16 * 9, 32 * 16 * 9, "dense")


def test_an_extra_weight_is_a_violation() -> None:
    weight = sparse(random(32, 64, 3, 3))
    assert only_layer(conv(weight)).state == "sparse"
    weight[5, 8:11, 1, 2] = 1
    layer = only_layer(conv(weight))
    assert (layer.violations, layer.state) == (1, "dense")


def test_fp16_is_read_too() -> None:
    layer = only_layer(conv(sparse(random(32, 64, 1, 1)).astype(np.float16)))
    assert (layer.dtype, layer.bytes, layer.sparse) == ("float16", 32 * 64 * 2, True)


@pytest.mark.parametrize(
    ("weight", "attributes", "words"),
    [
        (random(64, 1, 3, 3), {"group": 64}, "depthwise"),
        (random(64, 32, 3, 3), {"group": 2}, "grouped"),
        (random(64, 3, 3, 3), {}, "first layer"),
        (random(64, 34, 3, 3), {}, "multiple of 4"),
        (random(64, 16, 3, 3), {}, "16 input channels"),
        (np.full((64, 64, 1, 1), np.nan, np.float32), {}, "NaN"),
    ],
)
def test_layers_that_tensorrt_cannot_use_have_a_reason(weight: Array, attributes: dict[str, int], words: str) -> None:
    layer = only_layer(conv(weight, **attributes))
    assert layer.state == "ineligible" and words in str(layer.reason)


def test_a_transposed_convolution_is_listed_and_not_eligible() -> None:
    source = model([node("ConvTranspose", ["x", "w"], ["y"])], {"w": random(64, 32, 2, 2)})
    layer = only_layer(source)
    assert layer.name == "y" and "transposed" in str(layer.reason)
    assert layer.macs == 64 * 8 * 8 * 32 * 4


def test_a_product_of_two_activations_is_listed_as_not_prunable() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"], "attention")]
    layer = only_layer(model(nodes, {}, (8, 64)))
    assert (layer.name, layer.shape, layer.macs) == ("attention", None, 8 * 8 * 64)
    assert "two activations" in str(layer.reason)


@pytest.mark.parametrize("kind", HELD)
def test_the_pattern_is_recognized_through_nodes_before_the_layer(kind: str) -> None:
    weight = sparse(random(64, 48), 0)
    layer = only_layer(stored_as(kind, weight))
    assert layer.state == "sparse", layer
    assert (layer.macs, layer.groups) == (8 * 64 * 48, 16 * 48)
    weight[8:11, 5] = 1
    assert only_layer(stored_as(kind, weight)).violations == 1


def test_quantized_weights_need_zero_point_zero() -> None:
    nodes = [node("DequantizeLinear", ["w", "s", "z"], ["b"]), node("MatMul", ["x", "b"], ["y"])]
    tensors: dict[str, Any] = {
        "w": np.full((64, 32), 7, np.int8),
        "s": np.array(1, np.float32),
        "z": np.array(7, np.int8),
    }
    layer = only_layer(model(nodes, tensors, (8, 64)))
    assert layer.zeros == 64 * 32 and "zero point" in str(layer.reason)


def test_computed_weights_ask_for_folded_constants() -> None:
    nodes = [node("Mul", ["w", "w"], ["b"]), node("MatMul", ["x", "b"], ["y"])]
    assert "are computed by Mul: fold" in str(only_layer(model(nodes, {"w": random(64, 32)}, (8, 64))).reason)


def test_a_product_of_constants_is_not_a_layer() -> None:
    nodes = [node("MatMul", ["w", "w"], ["b"]), node("Add", ["x", "b"], ["y"])]
    assert inspect(model(nodes, {"w": random(64, 64)}, (64, 64))).layers == ()


def quantized(after: list[onnx.NodeProto]) -> InspectedLayer:
    """The layer of x, Q, DQ, conv with Q/DQ weights, then `after` from c to y."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        node("Conv", ["xd", "wd"], ["c"]),
        *after,
    ]
    weight = np.random.default_rng(0).integers(-127, 128, (256, 256, 1, 1), np.int8)
    return only_layer(
        model(nodes, {"w": weight, "s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}, (1, 256, 4, 4))
    )


def test_int8_doubts_operators_between_layer_and_q() -> None:
    q = [node("QuantizeLinear", ["r", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    assert quantized([node("Relu", ["c"], ["r"]), *q]).doubts == ()
    silu = [node("Sigmoid", ["c"], ["g"]), node("Mul", ["c", "g"], ["r"])]
    assert "SiLU follows" in quantized([*silu, *q]).doubts[0]
    assert "MaxPool follows" in quantized([node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2])]).doubts[0]


def test_open_shapes_leave_macs_unknown_until_they_are_set() -> None:
    source = model([node("Conv", ["x", "w"], ["y"])], {"w": random(32, 64, 1, 1)}, ("n", 64, "h", "w"))
    assert inspect(source).macs is None
    assert inspect(source, {"x": (2, 64, 10, 20)}).macs == 2 * 64 * 32 * 200
    with pytest.raises(ModelError, match="no input 'images'"):
        inspect(source, {"images": (1, 64, 8, 8)})
    with pytest.raises(ModelError, match="4 dimensions"):
        inspect(source, {"x": (64, 8, 8)})


def test_external_data_is_read(tmp_path: Path) -> None:
    onnx.save(conv(sparse(random(32, 64, 3, 3))), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    assert only_layer(onnx.load(tmp_path / "m.onnx")).state == "sparse"


def test_the_real_network(real: Path) -> None:
    report = inspect(onnx.load(real / "models" / "yolox_nano.onnx"))
    assert len(report.layers) == 113
    # YOLOX's authors publish 1.08 GFLOPs at 416 (two per multiply-accumulate), activations and resizing included
    assert report.macs is not None and report.macs == pytest.approx(1.08e9 / 2, rel=0.05)
    assert report.share("dense") > 0.7 and report.share("sparse") == 0
    reasons = {layer.reason.split(":")[0] for layer in report.layers if layer.reason}
    assert "depthwise convolution" in reasons
    assert json.loads(json.dumps(report.as_dict()))["layers"][0]["op"] == "Conv"


def test_layers_inside_a_branch_are_counted_and_stated() -> None:
    branches = {
        name: helper.make_graph(
            [node("Conv", ["x", "w"], [name])], name, [], [helper.make_empty_tensor_value_info(name)]
        )
        for name in ("then", "else")
    }
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "zero"], ["condition"]),
        node("If", ["condition"], ["y"], then_branch=branches["then"], else_branch=branches["else"]),
    ]
    report = inspect(model(nodes, {"zero": np.array(0, np.float32), "w": random(32, 64, 1, 1)}, (1, 64, 4, 4)))
    assert report.layers == () and report.notes == ["2 layers inside If or Loop are not listed: they stay as they are"]
