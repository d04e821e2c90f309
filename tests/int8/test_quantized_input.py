"""A graph that quantizes its image first, without that step: the same results from the quantized image."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper
from small_models import model, node, random

from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.int8.quantized_input import image_type, without_quantizer

SHAPE = (2, 3, 8, 8)
SCALE = np.float32(2 / 127)


def network() -> ModelProto:
    """Two convolutions that read the image, and one behind them."""
    nodes = [node("Conv", ["x", f"w{name}"], [name], name) for name in "ab"]
    nodes += [node("Relu", [name], [f"{name}r"]) for name in "ab"] + [node("Add", ["ar", "br"], ["sum"])]
    nodes.append(node("Conv", ["sum", "wc"], ["y"], "c"))
    return model(nodes, {"wa": random(8, 3, 1, 1), "wb": random(8, 3, 1, 1, seed=1), "wc": random(8, 8, 1, 1)}, SHAPE)


def quantized(**settings: Any) -> ModelProto:
    float_model = network()
    return quantize(float_model, dict.fromkeys(quantized_tensors(float_model), float(SCALE)), **settings)[0]


def results(network_model: ModelProto, images: Any) -> Any:
    session = ort.InferenceSession(network_model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def test_the_quantized_image_gives_the_same() -> None:
    before = quantized()
    assert image_type(before) == ("int8", float(SCALE))
    after = without_quantizer(before)
    assert len(after.graph.node) == len(before.graph.node) - 1
    assert after.graph.input[0].type.tensor_type.elem_type == TensorProto.INT8
    images = np.random.default_rng(0).uniform(-3, 3, SHAPE).astype(np.float32)
    steps = np.clip(np.rint(images / SCALE), -128, 127).astype(np.int8)
    assert (results(after, steps) == results(before, images)).all()
    assert image_type(before) == ("int8", float(SCALE)), "the model itself is unchanged"


def test_a_graph_that_does_not_quantize_its_image() -> None:
    assert image_type(network()) == ("float16", 1.0)


@pytest.mark.parametrize("case", ["also read", "an output", "shifted", "another input", "bytes"])
def test_what_needs_the_float_image(case: str) -> None:
    changed = quantized()
    graph = changed.graph
    q = next(each for each in graph.node if each.op_type == "QuantizeLinear" and each.input[0] == "x")
    if case == "also read":
        graph.node.append(helper.make_node("Relu", ["x"], ["more"]))
    elif case == "an output":
        graph.output.append(helper.make_tensor_value_info(q.output[0], TensorProto.INT8, SHAPE))
    elif case == "shifted":
        zero = next(each for each in graph.initializer if each.name == q.input[2])
        zero.ClearField("raw_data")
        zero.raw_data = b"\1"
    elif case == "another input":
        graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, (2, 2)))
    else:
        graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    assert image_type(changed) is None
