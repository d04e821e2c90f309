"""Conversion to FP16: what becomes FP16, what stays FP32, and the same results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgesparse.errors import ModelError
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.model import load as models
from edgesparse.model.half import to_half

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
DETECTOR = Path(models.__file__).parents[1] / "demo" / "parts_2to4.onnx"


def network(*nodes: onnx.NodeProto, opset: int = 13, **stored: object) -> ModelProto:
    """A graph from `x` 1x4x6x6 to `y`."""
    network_model = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(network_model, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def weights(out: int = 8, into: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, (out, into, 3, 3)).astype(np.float32)


def conv(source: str, network_model: str, weight: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [network_model], network_model, kernel_shape=[3, 3], pads=[1] * 4)


def kinds(model: ModelProto) -> dict[str, int]:
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    result = {value.name: value.type.tensor_type.elem_type for value in values}
    return result | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def computed_in(model: ModelProto) -> dict[str, int]:
    """The type of each node's first output, by node name."""
    result = kinds(model)
    return {node.name: result[node.output[0]] for node in model.graph.node if node.op_type != "Cast"}


def ran(model: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def test_products_are_half_and_the_decoding_behind_the_last_is_not() -> None:
    model = network(
        conv("x", "a", "v"),
        helper.make_node("Relu", ["a"], ["r"], "r"),
        conv("r", "b", "w"),
        helper.make_node("Mul", ["b", "stride"], ["y"], "y"),
        v=weights(), w=weights(4, 8), stride=np.float32(32),
    )  # fmt: skip
    half = to_half(model)
    assert computed_in(half) == {"a": HALF, "r": HALF, "b": HALF, "y": FLOAT}
    assert [node.op_type for node in half.graph.node].count("Cast") == 2
    assert kinds(half)["x"] == kinds(half)["y"] == FLOAT
    x = np.random.default_rng(0).random((1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(ran(half, x)[0], ran(model, x)[0], rtol=0.02, atol=0.5)


def test_a_half_output_keeps_its_name_and_is_returned_as_float() -> None:
    half = to_half(network(conv("x", "y", "w"), w=weights()))
    assert half.graph.output[0].name == "y" and kinds(half)["y"] == FLOAT
    assert [node.op_type for node in half.graph.node] == ["Cast", "Conv", "Cast"]


def test_an_output_that_is_also_read_inside() -> None:
    model = network(conv("x", "y", "w"), helper.make_node("Relu", ["y"], ["r"], "r"), conv("r", "z", "v"),
                    w=weights(), v=weights(8, 8))  # fmt: skip
    model.graph.output.append(helper.make_tensor_value_info("z", FLOAT, [1, 8, 6, 6]))
    half = to_half(model)
    x = np.ones((1, 4, 6, 6), np.float32)
    for result, needed in zip(ran(half, x), ran(model, x), strict=True):
        np.testing.assert_allclose(result, needed, rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    ("operator", "constant"), [("Add", 1e6), ("Mul", -np.inf), ("Add", 1e-12), ("Pow", 2.0), ("Where", 1e9)]
)
def test_constants_that_half_cannot_represent_stay_float(operator: str, constant: float) -> None:
    inputs = ["m", "c", "a"] if operator == "Where" else ["a", "c"]
    model = network(
        conv("x", "a", "v"),
        helper.make_node(operator, inputs, ["s"], "s"),
        conv("s", "y", "w"),
        v=weights(), w=weights(4, 8), c=np.float32(constant), m=np.zeros(1, bool),
    )  # fmt: skip
    if operator != "Where":
        del model.graph.initializer[3]
    assert computed_in(to_half(model)) == {"a": HALF, "s": FLOAT, "y": HALF}


def test_a_weight_read_in_both_types() -> None:
    model = network(conv("x", "a", "v"), helper.make_node("ReduceSum", ["v"], ["s"], "s", keepdims=0),
                    helper.make_node("Add", ["a", "s"], ["y"], "y"), v=weights())  # fmt: skip
    half = to_half(model)
    assert sorted(tensor.data_type for tensor in half.graph.initializer) == [FLOAT, HALF]


def test_scales_of_resize_stay_float_and_constant_nodes_become_half() -> None:
    model = network(
        conv("x", "a", "v"),
        helper.make_node("Constant", [], ["c"], "c", value=numpy_helper.from_array(np.array(0.5, np.float32))),
        helper.make_node("Mul", ["a", "c"], ["s"], "s"),
        helper.make_node("Resize", ["s", "", "scales"], ["u"], "u", mode="nearest"),
        conv("u", "y", "w"),
        v=weights(), w=weights(4, 8), scales=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    half = to_half(model)
    assert computed_in(half) == {"a": HALF, "s": HALF, "u": HALF, "y": HALF} and kinds(half)["scales"] == FLOAT


def test_a_branch_reads_the_same_tensors() -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["a"], ["n"])], "then", [],
                               [helper.make_tensor_value_info("n", FLOAT, [1, 8, 6, 6])])  # fmt: skip
    other = helper.make_graph([helper.make_node("Abs", ["a"], ["m"])], "else", [],
                              [helper.make_tensor_value_info("m", FLOAT, [1, 8, 6, 6])])  # fmt: skip
    model = network(
        conv("x", "a", "v"),
        helper.make_node("If", ["q"], ["i"], "i", then_branch=branch, else_branch=other),
        conv("i", "y", "w"),
        v=weights(), w=weights(4, 8), q=np.array(True),
    )  # fmt: skip
    assert computed_in(to_half(model))["a"] == FLOAT


def test_named_nodes_stay_float() -> None:
    model = network(conv("x", "a", "v"), conv("a", "y", "w"), v=weights(), w=weights(4, 8))
    assert computed_in(to_half(model, keep={"a"})) == {"a": FLOAT, "y": HALF}


@pytest.mark.parametrize("placement", ["fuse", "sparse"])
def test_a_quantized_detector_is_half_between_its_pairs(placement: str) -> None:
    model = models.load(DETECTOR)
    scales = dict.fromkeys(quantized_tensors(model, placement), 0.03)  # type: ignore[arg-type]
    quantized, _ = quantize(model, scales, placement=placement)  # type: ignore[arg-type]
    half = to_half(quantized)
    assert half.opset_import[0].version >= 19
    result = kinds(half)
    pairs = [node for node in half.graph.node if node.op_type == "DequantizeLinear"]
    assert pairs and {result[node.output[0]] for node in pairs} == {HALF}
    assert {result[node.input[1]] for node in pairs} == {HALF}


def test_scales_too_small_for_half() -> None:
    model = network(
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        helper.make_node("QuantizeLinear", ["w", "t", "zs"], ["wq"], "wq", axis=0),
        helper.make_node("DequantizeLinear", ["wq", "t", "zs"], ["wd"], "wd", axis=0),
        conv("d", "y", "wd"),
        w=weights(), s=np.float32(1e-7), z=np.int8(0), t=np.full(8, 1e-9, np.float32), zs=np.zeros(8, np.int8),
    )  # fmt: skip
    half = to_half(model)
    assert computed_in(half)["d"] == FLOAT
    network_model = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    assert network_model["t_half"].dtype == np.float16 and (network_model["t_half"] > 0).all()


def test_the_default_detector_detects_the_same() -> None:
    model = models.load(DETECTOR)
    half = to_half(model)
    assert half.ByteSize() < 0.55 * model.ByteSize()
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    (needed,), (result,) = ran(model, x), ran(half, x)
    assert np.abs(result - needed)[:, :4].max() < 0.5  # pixels
    assert np.abs(result - needed)[:, 4:].max() < 0.01


def test_an_operator_that_does_not_exist_is_refused() -> None:
    model = network(conv("x", "y", "w"), w=weights())
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(ModelError, match="Nonsense"):
        to_half(model)


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["Relu", "Sigmoid", "Exp", "Conv", "Add", "Softmax"]), min_size=1, max_size=6))
def test_any_chain_is_valid_and_close(operators: list[str]) -> None:
    nodes, at = [], "x"
    for i, operator in enumerate(operators):
        network_model = "y" if i == len(operators) - 1 else f"t{i}"
        if operator == "Conv":
            nodes.append(conv(at, network_model, "w"))
        else:
            nodes.append(
                helper.make_node(operator, [at, "c"] if operator == "Add" else [at], [network_model], network_model)
            )
        at = network_model
    model = network(*nodes, w=0.1 * weights(4, 4), c=np.float32(0.25))
    x = np.random.default_rng(0).random((1, 4, 6, 6)).astype(np.float32)
    half = to_half(model)
    np.testing.assert_allclose(ran(half, x)[0], ran(model, x)[0], rtol=0.1, atol=0.05)
