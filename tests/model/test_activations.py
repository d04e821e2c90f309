"""Streaming tensors from a network, as a whole and segment by segment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from small_models import model, node, random, run

from edgesparse.errors import CalibrationError, ModelError
from edgesparse.model.activations import Batches, Tape, stream

W1, W2 = random(8, 4, 3, 3), random(8, 8, 1, 1, seed=1)


def net() -> ModelProto:
    """Two convolutions with a skip connection over the second, and a weight that goes through a Constant and an
    Identity."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(W2))
    nodes = [
        constant,
        node("Identity", ["c"], ["w2"]),
        node("Conv", ["x", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["d"], "second"),
        node("Add", ["b", "d"], ["y"]),
    ]
    return model(nodes, {"w1": W1}, (1, 4, 6, 6))


def batches(count: int = 3) -> Batches:
    return lambda: [random(1, 4, 6, 6, seed=i) for i in range(count)]


def test_stream_gives_inner_tensors_inputs_and_outputs_of_each_batch() -> None:
    source = net()
    result = list(stream(source, batches(), ["x", "a", "y"]))
    assert len(result) == 3
    for x, values in zip(batches()(), result, strict=True):
        np.testing.assert_array_equal(values["x"], x)
        np.testing.assert_allclose(values["y"], run(source, x)[0], atol=1e-5)
        assert values["a"].shape == (1, 8, 6, 6)


@pytest.mark.parametrize("stops", [(5,), (1, 2, 3), (2, 3), (0, 1)])
def test_a_network_run_in_segments_computes_the_same_as_a_whole(tmp_path: Path, stops: tuple[int, ...]) -> None:
    source = net()
    tape = Tape(source, tmp_path)
    tape.load(batches())
    assert [n.op_type for n in tape.nodes] == ["Conv", "Relu", "Conv", "Add"]
    for stop in (*stops, 4):
        tape.run_to(stop)
    for x, y in zip(batches()(), tape.read("y"), strict=True):
        np.testing.assert_allclose(y, run(source, x)[0], rtol=2e-3, atol=2e-2)


def test_tensors_that_no_later_node_reads_are_deleted(tmp_path: Path) -> None:
    tape = Tape(net(), tmp_path)
    tape.load(batches())
    tape.run_to(2)
    assert len(list(tmp_path.iterdir())) == 1
    tape.run_to(3, keep=["x", "b"])
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_changed_between_segments_take_effect_from_there_on(tmp_path: Path) -> None:
    tape = Tape(net(), tmp_path)
    tape.load(batches())
    tape.run_to(2)
    tape.wiring.store("c", np.zeros_like(W2))
    tape.run_to(2, keep=["b"])
    before = list(tape.read("b"))
    tape.run_to(4)
    for b, y in zip(before, tape.read("y"), strict=True):
        np.testing.assert_array_equal(b, y)


def test_a_part_of_the_batches_can_be_read(tmp_path: Path) -> None:
    tape = Tape(net(), tmp_path)
    tape.load(lambda: [np.full((1, 4, 6, 6), i, np.float32) for i in range(7)])
    for step, first, numbers in ((1, 0, range(7)), (1, 5, (5, 6)), (3, 0, (0, 3, 6)), (3, 2, (6,)), (3, 3, ())):
        assert [batch[0, 0, 0, 0] for batch in tape.read("x", step, first)] == list(numbers)


def test_values_too_large_for_half_precision_stay_float(tmp_path: Path) -> None:
    tape = Tape(net(), tmp_path)
    large = np.full((1, 4, 6, 6), 1e6 + 1, np.float32)
    tape.load(lambda: [large])
    np.testing.assert_array_equal(next(iter(tape.read("x"))), large)


@pytest.mark.parametrize(
    ("passed", "message"),
    [
        ([], "no calibration images"),
        ([np.zeros((0, 4, 6, 6), np.float32)], "batch 1 is empty"),
        ([np.zeros((1, 4, 6, 6), np.float32), np.full((1, 4, 6, 6), np.nan, np.float32)], "batch 2 holds NaN"),
        ([np.zeros((1, 3, 6, 6), np.float32)], "cannot run the model on x [1, 3, 6, 6]"),
    ],
)
def test_bad_batches_are_refused_in_one_line(passed: list[np.ndarray], message: str) -> None:
    with pytest.raises(CalibrationError) as error:
        list(stream(net(), lambda: passed, ["y"]))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_model_with_two_inputs_is_refused() -> None:
    source = net()
    source.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    with pytest.raises(ModelError, match="2 inputs"):
        list(stream(source, batches(), ["y"]))
