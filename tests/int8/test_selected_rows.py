"""What follows a selection of rows stays float: a detection transformer's decoder."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto
from small_models import model, node, random

from edgesparse.int8.calibration import CalibrationOptions
from edgesparse.int8.recover import RecoverOptions, recover

C = 32


def transformer() -> ModelProto:
    """The rows with the highest scores go through two matrix products, of which the last is the head's."""
    nodes = [
        node("Conv", ["x", "w1"], ["stem"], "stem"),
        node("Conv", ["stem", "w2"], ["features"], "encoder"),
        node("Reshape", ["features", "rows"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("ReduceMax", ["tokens"], ["scores"], axes=[2], keepdims=0),
        node("TopK", ["scores", "k"], ["values", "indices"], axis=1),
        node("Unsqueeze", ["indices", "last"], ["column"]),
        node("Expand", ["column", "picked"], ["index"]),
        node("GatherElements", ["tokens", "index"], ["queries"], axis=1),
        node("MatMul", ["queries", "w3"], ["hidden"], "decoder"),
        node("Relu", ["hidden"], ["active"]),
        node("MatMul", ["active", "w4"], ["y"], "head"),
    ]
    weights = {"w1": random(C, C, 1, 1), "w2": random(C, C, 1, 1, seed=1)}
    weights |= {"w3": random(C, C, seed=2), "w4": random(C, C, seed=3)}
    sizes = {"rows": np.array([0, C, -1]), "k": np.array([4]), "last": np.array([2]), "picked": np.array([1, 4, C])}
    return model(nodes, weights | sizes, (1, C, 6, 6))


def test_the_decoder_stays_float_with_the_rule_that_says_so() -> None:
    result = recover(
        transformer(), lambda: [random(1, C, 6, 6, seed=i) for i in range(4)], RecoverOptions(CalibrationOptions("max"))
    )
    layers = {layer.name: layer for layer in result.report.layers}
    assert [layers[name].int8 for name in ("stem", "encoder", "decoder", "head")] == [True, True, False, False]
    assert layers["decoder"].why.startswith("follows TopK: ")
    decoder = next(each for each in result.quantized.graph.node if each.name == "decoder")
    assert list(decoder.input) == ["queries", "w3"]
