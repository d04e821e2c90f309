"""The line in front of ReLU with which it follows a smooth activation."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto
from small_models import model, node, random, run

from edgesparse.model.wiring import Wiring
from edgesparse.sparsity.activated import Activation
from edgesparse.sparsity.swapped import GAIN, Line, line_to, replaced

KINDS = {
    "SiLU": [node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "a"], ["y"])],
    "HardSwish": [node("HardSwish", ["a"], ["y"])],
}


def network(*after: NodeProto) -> ModelProto:
    return model([node("Conv", ["x", "w"], ["a"]), *after], {"w": random(4, 64, 1, 1)})


def smooth(kind: str) -> Activation:
    before, after = (network(*nodes) for nodes in (KINDS[kind], [node("Relu", ["a"], ["y"])]))
    activation = replaced(Wiring(before.graph), Wiring(after.graph), "a")
    assert activation is not None and replaced(Wiring(after.graph), Wiring(after.graph), "a") is None
    return activation


@pytest.mark.parametrize("kind", KINDS)
def test_the_activation_that_was_replaced_is_computed_as_onnx_runtime_does(kind: str) -> None:
    x = random(1, 64, 8, 8)
    plain = run(network(node("Identity", ["a"], ["y"])), x)[0]
    np.testing.assert_allclose(smooth(kind)(plain), run(network(*KINDS[kind]), x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_relu_of_the_line_follows_the_activation_but_for_a_constant(kind: str) -> None:
    outputs = random(4096, 4) * np.array([0.2, 1, 3, 1], np.float32) + np.array([0, 0, -1, 2], np.float32)
    target = smooth(kind)(outputs)
    line = line_to(smooth(kind), outputs)
    left = target - np.maximum(line.of(outputs), 0)
    plain = target - np.maximum(outputs, 0)
    assert (left.var(0) < 0.05 * target.var(0)).all()
    assert (left.var(0) <= plain.var(0) + 2 * GAIN * target.var(0)).all() and left.var(0)[0] < 0.1 * plain.var(0)[0]


def test_a_channel_that_says_nothing_keeps_its_outputs() -> None:
    """One that is constant, and one where SiLU falls, as no ReLU of a rising line does."""
    outputs = np.stack([np.full(100, 0.5), np.linspace(-9, -8, 100)], 1).astype(np.float32)
    assert line_to(smooth("SiLU"), outputs).scale.tolist() == [1, 1]
    assert line_to(smooth("SiLU"), outputs).shift.tolist() == [0, 0]


def test_a_line_moves_each_channel_of_an_image_by_its_own() -> None:
    line = Line(np.array([1, 2], np.float32), np.array([0, 5], np.float32))
    np.testing.assert_array_equal(line.of(np.ones((1, 2, 1, 2), np.float32)), [[[[1, 1]], [[7, 7]]]])
