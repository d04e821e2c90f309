"""Where Q/DQ pairs are inserted, pattern by pattern."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import patterns
import pytest
from onnx import ModelProto, TensorProto
from patterns import WIDTH, conv, graph, relu, silu, weights
from small_models import model, node, random

from edgesparse.errors import ModelError
from edgesparse.int8.placement import Placement, plan
from edgesparse.sparsity.mask import mask_2to4

X = (1, WIDTH, 4, 4)


def pairs(network_model: ModelProto, placement: Placement = "fuse", keep: Collection[str] = ()) -> dict[str, set[str]]:
    """Each quantized tensor, and the nodes that read it through its Q/DQ pair."""
    named = {each.output[0]: each.name or each.op_type for each in network_model.graph.node}
    return {name: {named[reader] for reader in by} for name, by in plan(network_model, placement, keep).readers.items()}


def groups(network_model: ModelProto) -> set[frozenset[str]]:
    """Groups of several tensors that share a scale."""
    message = plan(network_model).scales_of
    result = {frozenset(name for name in message if message[name] == group) for group in message.values()}
    return {group for group in result if len(group) > 1}


def test_a_residual_addition_reads_its_shortcut_in_int8_and_the_convolution_in_float() -> None:
    assert pairs(patterns.residual()) == {"x": {"a"}, "ar": {"b", "add"}, "br": {"c"}, "sr": {"next"}}
    assert plan(patterns.residual()).readers["ar"]["sum"] == {0}
    assert pairs(patterns.residual_silu()) == {"x": {"a"}, "as": {"b", "add"}, "sum": {"next"}}


def test_of_two_added_convolutions_the_later_has_no_pair() -> None:
    assert pairs(patterns.projected()) == {"x": {"a"}, "ar": {"short", "b"}, "s": {"add"}, "sr": {"next"}}


def test_an_addition_without_an_int8_layer_behind_stays_float() -> None:
    assert pairs(patterns.residual(), keep=["next"]) == {"x": {"a"}, "ar": {"b"}, "br": {"c"}}


def test_a_concatenation_and_its_inputs_share_a_scale() -> None:
    assert pairs(patterns.concat()) == {"x": {"a"}, "ar": {"b", "cat"}, "br": {"cat"}, "cat": {"next"}}
    assert groups(patterns.concat()) == {frozenset({"ar", "br", "cat"})}
    assert groups(patterns.concat_of_concat()) == {frozenset({"ar", "br", "cr", "inner", "outer"})}
    assert pairs(patterns.concat_of_concat())["inner"] == {"outer"}


def test_no_pair_is_between_a_convolution_and_its_silu() -> None:
    assert pairs(patterns.silu_chain()) == {"x": {"a"}, "as": {"next"}}
    assert pairs(patterns.hard_swish()) == {"x": {"a"}, "ah": {"next"}}


def test_a_single_pair_serves_all_readers() -> None:
    assert pairs(patterns.shared()) == {"x": {"a"}, "ar": {"b", "c"}, "product": {"next"}}


def test_depthwise_and_transposed_convolutions_are_quantized() -> None:
    assert pairs(patterns.depthwise()) == {"x": {"a"}, "ar": {"d"}, "dr": {"next"}}
    assert pairs(patterns.transposed()) == {"x": {"a"}, "ar": {"t"}, "tr": {"next"}}


def test_pools_share_the_scale_of_their_input() -> None:
    result = pairs(patterns.sppf())
    assert result == {"x": {"a"}, "r": {"pool1", "cat"}} | {
        "p1": {"pool2", "cat"},
        "p2": {"pool3", "cat"},
        "p3": {"cat"},
        "cat": {"next"},
    }
    assert groups(patterns.sppf()) == {frozenset({"r", "p1", "p2", "p3", "cat"})}


def test_a_resize_has_only_a_pair_behind_it_with_the_concatenations_scale() -> None:
    result = pairs(patterns.neck())
    assert result == {"x": {"a"}, "ar": {"b", "cat"}, "up": {"cat"}, "cat": {"next"}}
    assert groups(patterns.neck()) == {frozenset({"ar", "up", "cat"})}


def test_a_split_tensor_is_quantized_once_in_front_of_the_split() -> None:
    result = pairs(patterns.split())
    assert result["as"] == {"split"} and result["s1"] == {"b", "add", "cat"} and result["sum"] == {"cat"}
    assert groups(patterns.split()) == {frozenset({"as", "s0", "s1", "sum", "cat"})}


def test_the_image_is_quantized_in_front_of_its_slices() -> None:
    assert pairs(patterns.focus())["x"] == {f"slice{i}" for i in range(4)}
    assert len(groups(patterns.focus())) == 1


def test_matrix_products_are_quantized() -> None:
    assert pairs(patterns.gemm()) == {"x": {"a"}, "ar": {"b"}, "br": {"c"}}


def test_heads_and_box_decoding_stay_float() -> None:
    network_model = plan(patterns.distances())
    assert [kernel.node.name for kernel in network_model.kernels] == ["a", "next"]
    assert (
        "model's output" in network_model.float_because["box"]
        and "model's output" in network_model.float_because["class"]
    )
    assert "decodes" in network_model.float_because["dfl"] and set(network_model.readers) == {"x", "ar"}


def test_computed_shapes_do_not_turn_the_backbone_into_a_head() -> None:
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("b", "ar", "b"), relu("b", "br"), conv("c", "br", "c")]
    nodes += [node("Shape", ["a"], ["shape"]), node("Reshape", ["c", "shape"], ["y"])]
    network_model = model(nodes, {k: v for name in "abc" for k, v in weights(name).items()}, X)
    assert set(plan(network_model).float_because) == {"c"}


def test_layers_kept_in_float_read_float_and_cost_nothing_elsewhere() -> None:
    assert pairs(patterns.shared(), keep=["b"]) == {"x": {"a"}, "ar": {"c"}, "product": {"next"}}
    assert pairs(patterns.silu_chain(), keep=["next"]) == {"x": {"a"}}
    assert plan(patterns.shared(), keep=["b"]).float_because["b"] == "kept in float, as requested"
    with pytest.raises(ModelError, match="no layer 'nxet' in this model: did you mean 'next'"):
        plan(patterns.shared(), keep=["nxet"])


def sparse_chain(activation: str) -> ModelProto:
    """Convolutions a and b, each followed by `activation`; only a is 2:4 and wide enough."""
    wide = {f"{name}.w": random(32, 32, 1, 1, seed=i) for i, name in enumerate("abc")}
    wide["a.w"] *= mask_2to4(wide["a.w"])
    biases = {f"{name}.b": random(32) for name in "abc"}
    nodes = []
    for name, source, out in (("a", "x", "p"), ("b", "p", "q")):
        after = silu(name, out) if activation == "silu" else [relu(name, out)]
        nodes += [conv(name, source, name), *after]
    return model([*nodes, conv("c", "q", "y")], wide | biases, (1, 32, 4, 4))


def test_the_sparse_placement_writes_int8_directly_behind_a_sparse_layer() -> None:
    network_model = sparse_chain("silu")
    assert pairs(network_model, "fuse") == {"x": {"a"}, "p": {"b"}}
    assert pairs(network_model, "sparse") == {"x": {"a"}, "a": {"Sigmoid", "silu p"}, "p": {"b"}}
    assert pairs(sparse_chain("relu"), "sparse") == pairs(sparse_chain("relu"), "fuse") == {"x": {"a"}, "p": {"b"}}


def test_in_the_sparse_placement_all_readers_of_a_sparse_layer_read_int8() -> None:
    network_model = sparse_chain("relu")
    network_model.graph.node.append(node("Conv", ["p", "c.w"], ["z"], "head"))
    network_model.graph.output.append(onnx.ValueInfoProto(name="z"))
    assert pairs(network_model)["p"] == {"b"} and pairs(network_model, "sparse")["p"] == {"b", "head"}


def test_unsuitable_models_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="already has 2 Q/DQ operators: build it unchanged"):
        tail = [node("QuantizeLinear", ["y0", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])]
        plan(model([conv("a", "x", "y0"), *tail], weights("a") | {"s": np.float32(1)}, X))
    with pytest.raises(ModelError, match=r"operator form.*quantize the float model"):
        plan(operator_form())
    half = {name: value.astype(np.float16) for name, value in (weights("a") | weights("b")).items()}
    with pytest.raises(ModelError, match="takes FLOAT16: quantize the FP32 export"):
        plan(model([conv("a", "x", "a"), conv("b", "a", "y")], half, X, dtype=TensorProto.FLOAT16))
    with pytest.raises(ModelError, match="none of the model's 1 layers can be INT8: a computes the model's output"):
        plan(model([conv("a", "x", "y")], weights("a"), X))


def operator_form() -> ModelProto:
    to_bytes = node("Cast", ["x"], ["q"], to=TensorProto.UINT8)
    weight = random(8, 8, 1, 1).astype(np.int8)
    return model([to_bytes, node("ConvInteger", ["q", "w"], ["i"]), node("Cast", ["i"], ["y"], to=1)], {"w": weight}, X)


def test_products_of_activations_and_computed_weights_stay_float_with_a_reason() -> None:
    nodes = [conv("a", "x", "a"), node("MatMul", ["a", "x"], ["m"], "product"), node("Mul", ["b.w", "b.w"], ["w"])]
    nodes += [node("Conv", ["m", "w"], ["b"], "computed")]
    network_model = graph(nodes, last="b", **weights("b"))
    reasons = plan(network_model).float_because
    assert reasons["product"] == "multiplies two activations"
    assert "are computed by Mul: fold" in reasons["computed"]
