"""Layers are fitted to what passes their activation, and ranked with the bias that they would get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from small_models import model, node, random, run

from edgesparse.model.activations import Tape
from edgesparse.model.unfold import product
from edgesparse.model.wiring import Wiring
from edgesparse.progress import quiet
from edgesparse.sparsity import activated as activated_module
from edgesparse.sparsity.activated import activated, activation_of
from edgesparse.sparsity.fitting import fit
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.ranking import rank
from edgesparse.sparsity.rebuild import FitData, State, moments_of

C = 32
MIX = random(C, 12, seed=3) / 3
BATCHES = [np.einsum("cs,nshw->nchw", MIX, random(2, 12, 8, 8, seed=10 + i) ** 2) for i in range(3)]


def network(*after: Any, group: int = 1) -> ModelProto:
    """A convolution `layer` whose outputs, mostly negative, are read by `after`, which compute `y`."""
    tensors = {"w": random(C, C // group, 1, 1, seed=1) / 4, "b": random(C, seed=2) - np.float32(1.5)}
    layer = node("Conv", ["x", "w", "b"], ["a"], "layer", group=group)
    return model([layer, *after], tensors, (2, C, 8, 8))


SILU = [node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "a"], ["y"])]
ACTIVATIONS = {
    "ReLU": [node("Relu", ["a"], ["y"])],
    "LeakyReLU": [node("LeakyRelu", ["a"], ["y"], alpha=0.1)],
    "SiLU": SILU,
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_an_activation_is_computed_as_onnx_runtime_does(kind: str) -> None:
    source = network(*ACTIVATIONS[kind])
    activation = activation_of(Wiring(source.graph), "a")
    assert activation is not None
    plain = run(network(node("Identity", ["a"], ["y"])), BATCHES[0] * 9)[0]
    np.testing.assert_allclose(activation(plain), run(source, BATCHES[0] * 9)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "after",
    [
        [node("Tanh", ["a"], ["y"])],
        [node("Relu", ["a"], ["r"]), node("Add", ["a", "r"], ["y"])],
        [node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "x"], ["m"]), node("Mul", ["m", "a"], ["y"])],
    ],
    ids=["another", "a second reader", "a gate of something else"],
)
def test_outputs_that_something_else_reads_are_fitted_as_they_are(after: list[Any]) -> None:
    assert activation_of(Wiring(network(*after).graph), "a") is None


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_what_passes_the_activation_is_closer_under_the_same_mask(kind: str, group: int, weighed: bool) -> None:
    source = network(*ACTIVATIONS[kind], group=group)
    wiring = Wiring(source.graph)
    work, activation = product(wiring, source.graph.node[0]), activation_of(wiring, "a")
    targets = [run(network(node("Identity", ["a"], ["y"]), group=group), x)[0] for x in BATCHES]
    maps = [np.zeros((2, 8, 8), np.float32) for _ in BATCHES]
    maps[0][:, :4] = 1
    weights = PositionWeights.of(maps) if weighed else None
    moments = moments_of([work], ([pair] for pair in zip(BATCHES, targets, strict=True)), weights)[0]
    mask = work.as_matrix(mask_2to4(work.weight.values, 1))
    rows = np.split(np.arange(C), group)
    fits = [
        fit(moments.normal(i, True), work.matrix[r], np.empty((0, 4), np.intp), mask[r]) for i, r in enumerate(rows)
    ]
    assert activation is not None
    pairs = list(zip(BATCHES, targets, strict=True))
    better = activated(work, moments, fits, lambda first: pairs[first:], weights, activation)

    def error(parts: list[Any]) -> Any:
        """The weighted squared error of each output behind the activation."""
        total = np.zeros(C)
        for i, (x, y) in enumerate(zip(BATCHES, targets, strict=True)):
            inputs = np.split(work.inputs(x), group, 1)
            own = np.concatenate([a @ p.weight.T + p.bias for a, p in zip(inputs, parts, strict=True)], 1)
            count = np.ones(len(own)) if weights is None else weights.weights(i, 8, 8)
            total += count @ (activation(own.astype(np.float32)) - activation(work.outputs(y))) ** 2
        return total

    assert all((part.weight[~part.mask] == 0).all() for part in better)
    assert (error(better) <= error(fits) * 1.001).all()
    assert error(better).sum() < (0.3 if group == 1 else 0.95) * error(fits).sum()


def test_batches_that_do_not_fit_into_memory_are_read_again_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wiring = Wiring(network(*SILU).graph)
    work, activation = product(wiring, wiring.graph.node[0]), activation_of(wiring, "a")
    pairs = [(x, run(network(node("Identity", ["a"], ["y"])), x)[0]) for x in BATCHES]
    moments = moments_of([work], ([pair] for pair in pairs), None)[0]
    mask = work.as_matrix(mask_2to4(work.weight.values, 1))
    fits = [fit(moments.normal(0, True), work.matrix, np.empty((0, 4), np.intp), mask)]
    assert activation is not None
    starts: list[int] = []

    def read(first: int) -> list[tuple[Any, Any]]:
        starts.append(first)
        return pairs[first:]

    size, results = 2 * pairs[0][0].nbytes, []
    for room, again in ((0, 0), (size, 1), (3 * size, 3)):
        monkeypatch.setattr(activated_module, "HELD", room)
        results += activated(work, moments, fits, read, None, activation)
        assert starts == [0] + [again] * activated_module.ROUNDS
        starts.clear()
    for result in results[1:]:
        np.testing.assert_array_equal(result.weight, results[0].weight)


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_a_layer_is_ranked_with_the_bias_that_it_would_get(kind: str, tmp_path: Any) -> None:
    """Inputs of one sign: without a new bias, half of the weights would move the mean by far more than the rest."""
    shape: tuple[int, ...] = (64, C)
    if kind == "Conv":
        nodes = [node("Conv", ["x", "w", "b"], ["y"], "layer")]
        tensors, shape = {"w": random(64, C, 1, 1, seed=1), "b": random(64, seed=2)}, (2, C, 8, 8)
    else:
        nodes = [node("MatMul", ["x", "w"], ["m"], "layer"), node("Add", ["m", "b"], ["y"], "bias")]
        tensors = {"w": random(C, 64, seed=1), "b": random(64, seed=2)}
    source = model(nodes, tensors, shape)
    batches = [random(*shape, seed=20 + i) + np.float32(50) for i in range(4)]
    before = source.SerializeToString()
    layer = next(layer for layer in inspect(source, {"x": shape}).layers if layer.name == "layer")
    (choice,) = rank(source, {layer: 1.0}, FitData(lambda: iter(batches)), None, State(tmp_path), quiet)
    assert 0 < choice.change < 1 and source.SerializeToString() == before


def test_ranking_leaves_the_model_as_it_was(tmp_path: Any) -> None:
    from edgesparse.sparsity.ranking import _fitted

    source = network(*ACTIVATIONS["ReLU"])
    before = run(source, BATCHES[0])[0]
    tape = Tape(source, tmp_path)
    work = product(tape.wiring, source.graph.node[0])
    with _fitted(tape.wiring, work, {"weight": work.matrix * 2, "bias": np.ones(C)}):
        assert not np.array_equal(run(source, BATCHES[0])[0], before)
    np.testing.assert_array_equal(run(source, BATCHES[0])[0], before)
