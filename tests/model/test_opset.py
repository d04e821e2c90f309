"""Raising a model's opset keeps its results and the names of its tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_models import model, node, run

from edgesparse.errors import ModelError
from edgesparse.model.opset import opset_of, upgraded


def old_style() -> onnx.ModelProto:
    """A model with operators that changed between opsets 11 and 13: axes and sizes as attributes."""
    nodes = [
        node("Split", ["x"], ["a", "b"], "split", axis=1, split=[24, 40]),
        node("Unsqueeze", ["a"], ["u"], axes=[0]),
        node("Squeeze", ["u"], ["s"], axes=[0]),
        node("ReduceSum", ["b"], ["r"], axes=[1], keepdims=1),
        node("Add", ["s", "r"], ["sum"]),
        node("Clip", ["sum", "low", "high"], ["c"]),
        node("Softmax", ["c"], ["y"], axis=3),
    ]
    return model(nodes, {"low": np.array(-1, np.float32), "high": np.array(1, np.float32)}, (1, 64, 8, 8), opset=11)


def test_results_and_names_stay_the_same() -> None:
    source = old_style()
    source.metadata_props.add(key="names", value="{0: 'x'}")
    raised = upgraded(source)
    assert (opset_of(source), opset_of(raised)) == (11, 13)
    assert raised.metadata_props[0].key == "names"
    assert np.allclose(run(source)[0], run(raised)[0], atol=1e-6)
    names = {name for each in source.graph.node for name in each.output}
    assert names <= {name for each in raised.graph.node for name in each.output}


def test_a_model_with_a_newer_opset_is_copied_unchanged() -> None:
    source = model([node("Relu", ["x"], ["y"])], {}, opset=17)
    raised = upgraded(source)
    assert raised == source and raised is not source


def test_a_model_that_cannot_be_raised_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cannot raise the model from opset 11 to 13 .*: export it in opset 13 to 17"):
        upgraded(foreign())


def foreign() -> onnx.ModelProto:
    """A model with a node that ONNX does not define."""
    source = model([node("Relu", ["x"], ["y"])], {}, opset=11)
    source.graph.node[0].op_type = "Mine"
    return source


def test_the_real_network(real: object) -> None:
    source = onnx.load(f"{real}/models/yolox_nano.onnx")
    assert np.array_equal(run(source)[0], run(upgraded(source))[0])
