"""Raising a model's opset keeps what it computes and what its tensors are called."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_models import model, node, run

from edgesparse.errors import ModelError
from edgesparse.model.opset import opset_of, upgraded


def old_style() -> onnx.ModelProto:
    """What changed between opset 11 and 13: axes and sizes as attributes."""
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


def test_the_same_is_computed_under_the_same_names() -> None:
    made = old_style()
    made.metadata_props.add(key="names", value="{0: 'x'}")
    raised = upgraded(made)
    assert (opset_of(made), opset_of(raised)) == (11, 13)
    assert raised.metadata_props[0].key == "names"
    assert np.allclose(run(made)[0], run(raised)[0], atol=1e-6)
    names = {name for each in made.graph.node for name in each.output}
    assert names <= {name for each in raised.graph.node for name in each.output}


def test_a_model_that_is_new_enough_is_copied_as_it_is() -> None:
    made = model([node("Relu", ["x"], ["y"])], {}, opset=17)
    raised = upgraded(made)
    assert raised == made and raised is not made


def test_what_cannot_be_raised_says_so() -> None:
    with pytest.raises(ModelError, match=r"cannot raise the model from opset 11 to 13 .*: export it in opset 13 to 17"):
        upgraded(foreign())


def foreign() -> onnx.ModelProto:
    """A node that ONNX does not know."""
    made = model([node("Relu", ["x"], ["y"])], {}, opset=11)
    made.graph.node[0].op_type = "Mine"
    return made


def test_the_real_network(real: object) -> None:
    made = onnx.load(f"{real}/models/yolox_nano.onnx")
    assert np.array_equal(run(made)[0], run(upgraded(made))[0])
