"""Models with inputs beside the image, and with several outputs: quantized and pruned as they run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from small_models import model, node, random

from edgesparse.compress.narrow import NarrowOptions, narrow
from edgesparse.int8.recover import recover
from edgesparse.model.activations import Batches, stream
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.reconstruct import ReconstructOptions, reconstruct

C = 32
SIZES = [("orig_target_sizes", TensorProto.INT64)]
PADDLE = [("im_shape", TensorProto.FLOAT), ("scale_factor", TensorProto.FLOAT)]
KINDS = pytest.mark.parametrize("others", [[], SIZES, PADDLE], ids=["maps", "sizes", "paddle"])


def detector(others: Sequence[tuple[str, int]], width: int = 8) -> ModelProto:
    """Two raw maps; the second is scaled by the sum of each other input."""
    nodes = [
        node("Conv", ["x", "w0"], ["stem"], "stem"),
        node("Relu", ["stem"], ["r0"]),
        node("Conv", ["r0", "w1"], ["neck"], "neck"),
        node("Relu", ["neck"], ["r1"]),
        node("Conv", ["r1", "w2"], ["scores"], "scores"),
        node("Conv", ["r1", "w3"], ["raw"], "raw"),
    ]
    last = "raw"
    for name, _ in others:
        nodes += [
            node("Cast", [name], [f"{name}.f"], to=TensorProto.FLOAT),
            node("ReduceSum", [f"{name}.f"], [f"{name}.s"], keepdims=0),
            node("Mul", [last, f"{name}.s"], [f"{name}.m"]),
        ]
        last = f"{name}.m"
    nodes.append(node("Identity", [last], ["boxes"]))
    tensors = {f"w{i}": random(C, C, 1, 1, seed=i) for i in range(4)}
    source = model(nodes[:6], tensors, (1, C, 6, width), ("scores", "raw"))
    source.graph.node.extend(nodes[6:])
    source.graph.input.extend(helper.make_tensor_value_info(name, kind, ["n", 2]) for name, kind in others)
    source.graph.output[1].CopyFrom(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, None))
    return source


def batches(width: int = 8) -> Batches:
    return lambda: [random(1, C, 6, width, seed=i) for i in range(6)]


def outputs(source: ModelProto, width: int = 8) -> dict[str, np.ndarray]:
    return next(stream(source, batches(width), ["scores", "boxes"]))


@KINDS
def test_quantized(others: Sequence[tuple[str, int]]) -> None:
    source = detector(others)
    result = recover(source, batches())
    assert [layer.name for layer in result.report.layers if layer.int8] == ["stem", "neck"]
    before, after = outputs(source), outputs(result.quantized)
    for name, value in before.items():
        assert np.square(after[name] - value).mean() < 0.01 * value.var()


@KINDS
def test_pruned(others: Sequence[tuple[str, int]]) -> None:
    source = detector(others)
    pruned, _ = reconstruct(source, batches(), ReconstructOptions(layers=["neck"]))
    weight = next(np.frombuffer(t.raw_data, np.float32) for t in pruned.graph.initializer if t.name == "w1")
    assert (mask_2to4(weight.reshape(C, C)) >= (weight.reshape(C, C) != 0)).all()
    assert outputs(pruned).keys() == outputs(source).keys()


def test_channels_removed() -> None:
    wide = 1024  # smaller ones are not predicted to be faster with fewer channels
    narrowed, _ = narrow(detector(PADDLE, wide), batches(wide), NarrowOptions(share=0.005))
    assert [value.shape for value in outputs(narrowed, wide).values()] == [(1, C, 6, wide)] * 2


def test_paddle_detection_s_inputs_are_those_of_the_frame_loop() -> None:
    values = outputs(detector(PADDLE))["boxes"] / outputs(detector([]))["boxes"]
    np.testing.assert_allclose(values, (6 + 8) * 2, rtol=1e-4)
