"""Reordering channels before pruning: the network computes the same, and 2:4 keeps more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from small_models import conv, model, node, random, run

from edgesparse.model.wiring import Wiring
from edgesparse.sparsity import permute as permutation
from edgesparse.sparsity.channels import follow
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.permute import permute, search
from edgesparse.sparsity.prune import prune


def between(nodes: Sequence[NodeProto], last: int, **tensors: np.ndarray) -> ModelProto:
    """A convolution from x to a with bias `zero`, `nodes` from a to b, and one from `last` channels of b to y."""
    weights = {"w1": random(64, 64, 1, 1), "w2": random(32, last, 3, 3, seed=1), "zero": np.zeros(64, np.float32)}
    ends = [node("Conv", ["x", "w1", "zero"], ["a"], "one"), node("Conv", ["b", "w2"], ["y"], "two", pads=[1, 1, 1, 1])]
    return model([ends[0], *nodes, ends[1]], weights | tensors)


def ramp(*shape: int) -> np.ndarray:
    return np.linspace(0.5, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)


NORM = {name: ramp(64) for name in ("gamma", "beta", "mean", "var")}
CASES: dict[str, ModelProto] = {
    "silu": between([node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])], 64),
    "normalized": between([node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"])], 64, **NORM),
    "scaled": between(
        [node("Mul", ["a", "k"], ["m"]), node("PRelu", ["m", "p"], ["b"])], 64, k=ramp(1, 64, 1, 1), p=ramp(64, 1, 1)
    ),
    "depthwise": between(
        [node("Conv", ["a", "d", "db"], ["b"], group=64, pads=[1, 1, 1, 1])], 64, d=random(64, 1, 3, 3), db=ramp(64)
    ),
    "residual": between(
        [
            node("Relu", ["a"], ["r"]),
            node("Conv", ["r", "w3", "zero"], ["c"], "inner"),
            node("Add", ["a", "c"], ["b"]),
        ],
        64,
        w3=random(64, 64, 1, 1, seed=2),
    ),
    "concatenated": between(
        [
            node("Conv", ["a", "w3"], ["c"], "inner"),
            node("MaxPool", ["a"], ["m"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Concat", ["a", "c", "m"], ["b"], axis=1),
        ],
        168,
        w3=random(40, 64, 1, 1, seed=2),
    ),
    "split": between(
        [
            node("Split", ["a", "sizes"], ["l", "r"], axis=1),
            node("Conv", ["l", "w3"], ["c"], "inner"),
            node("Add", ["c", "r"], ["s"]),
            node("Concat", ["l", "r", "s"], ["b"], axis=1),
        ],
        96,
        w3=random(32, 32, 1, 1, seed=2),
        sizes=np.array([32, 32]),
    ),
    "sliced": between(
        [node("Slice", ["a", "from", "to", "axes"], ["b"])],
        40,
        **{"from": np.array([8]), "to": np.array([48]), "axes": np.array([1])},
    ),
    "pooled four times over": between(
        [
            node("MaxPool", ["a"], ["m"], kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
            node("MaxPool", ["m"], ["n"], kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
            node("Concat", ["a", "m", "n"], ["b"], axis=1),
        ],
        192,
    ),
    "gated": between(
        [
            node("GlobalAveragePool", ["a"], ["g"]),
            node("Conv", ["g", "w3"], ["h"], "inner"),
            node("Sigmoid", ["h"], ["s"]),
            node("Mul", ["a", "s"], ["b"]),
        ],
        64,
        w3=random(64, 64, 1, 1, seed=2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_stay_the_same_and_more_is_kept(case: str) -> None:
    source = ModelProto()
    source.CopyFrom(CASES[case])
    before = run(source)[0]
    report = permute(source, [layer.name for layer in inspect(source).eligible])
    onnx.checker.check_model(source)
    np.testing.assert_allclose(run(source)[0], before, rtol=1e-3, atol=1e-3)
    assert report.moved > 0 and report.after > report.before
    assert prune(source).layers[0].kept >= 0.5


FIXED: dict[str, ModelProto] = {
    "one convolution": conv(random(64, 64, 1, 1)),
    "reshaped": between([node("Reshape", ["a", "s"], ["b"])], 64, s=np.array([1, 64, 8, 8])),
    "seen from outside": model(
        [node("Conv", ["x", "w"], ["a"], "one"), node("Conv", ["a", "v"], ["y"], "two")],
        {"w": random(64, 64, 1, 1), "v": random(64, 64, 1, 1, seed=1)},
        outputs=("a", "y"),
    ),
    "taken twice": between([node("Concat", ["a", "a"], ["b"], axis=1)], 128),
    "added to the input": between([node("Add", ["a", "x"], ["b"])], 64),
    "quantized a channel": between(
        [node("DequantizeLinear", ["q", "scale"], ["w3"], axis=0), node("Conv", ["a", "w3"], ["b"], "inner")],
        64,
        q=np.arange(64 * 64, dtype=np.int64).reshape(64, 64, 1, 1).astype(np.int8),
        scale=ramp(64),
    ),
    "weights shared": model(
        [node("Conv", ["x", "w"], ["a"], "one"), node("Conv", ["a", "w"], ["y"], "two")], {"w": random(64, 64, 1, 1)}
    ),
}


def branching() -> ModelProto:
    """Channels and a bias that a branch of an If reads from the outer graph."""
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    branch = helper.make_graph([node("Add", ["a", "zero4"], ["t"])], "branch", [], [value])
    nodes = [
        node("Conv", ["x", "w1", "zero"], ["a"], "one"),
        node("If", ["yes"], ["b"], then_branch=branch, else_branch=branch),
        node("Conv", ["a", "w2"], ["y"], "two"),
        node("Conv", ["b", "w2b"], ["z"], "three"),
    ]
    tensors = {"w1": random(64, 64, 1, 1), "w2": random(32, 64, 1, 1), "w2b": random(32, 64, 1, 1, seed=3)}
    more = {"zero": ramp(64), "zero4": ramp(1, 64, 1, 1), "yes": np.array(True)}
    return model(nodes, tensors | more, outputs=("y", "z"))


FIXED["read inside a branch"] = branching()


@pytest.mark.parametrize("case", FIXED)
def test_channels_that_cannot_move_stay_in_place(case: str) -> None:
    source = FIXED[case]
    before = source.SerializeToString()
    report = permute(source, [layer.name for layer in inspect(source).eligible])
    assert report.moved == 0 and report.after == report.before
    assert source.SerializeToString() == before


@settings(max_examples=25)
@given(rows=st.integers(1, 20), fours=st.integers(1, 8), seed=st.integers(0, 1000))
def test_the_search_never_keeps_less(rows: int, fours: int, seed: int) -> None:
    weights = random(rows, 4 * fours, seed=seed)
    order = search(weights)
    assert sorted(order.tolist()) == list(range(4 * fours))

    def kept(values: np.ndarray) -> float:
        return float((np.abs(values) * mask_2to4(values)).sum())

    assert kept(weights[:, order]) >= kept(weights) * (1 - 1e-6)


def test_the_search_spreads_large_columns_over_the_groups() -> None:
    weights = np.repeat([[9.0, 0.0]], 5, axis=0).repeat(16, axis=1).astype(np.float32)
    result = weights[:, search(weights)].reshape(5, -1, 4)
    assert ((result > 0).sum(axis=2) == 2).all()


def test_a_bias_shared_by_two_layers_is_reordered_for_only_one() -> None:
    source = CASES["silu"]
    nodes = [*source.graph.node, node("Conv", ["x", "w1", "shared"], ["z"], "third")]
    tensors = {t.name: numpy_helper.to_array(t) for t in source.graph.initializer} | {"shared": ramp(64)}
    shared = model(nodes, tensors, outputs=("y", "z"))
    shared.graph.node[0].input[2] = "shared"
    shared.graph.node[-1].input[1] = "w4"
    shared.graph.initializer.append(numpy_helper.from_array(random(64, 64, 1, 1, seed=4), "w4"))
    before = run(shared)
    assert permute(shared, ["two"]).moved > 0
    for after, expected in zip(run(shared), before, strict=True):
        np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-3)


def test_the_real_network_computes_the_same_and_keeps_more(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "KICKS", 0)
    source = onnx.load(real / "models" / "yolox_nano.onnx")
    assert sum(map(len, follow(Wiring(source.graph)).blocks())) > 5000
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 416, 416)).astype(np.float32)
    before = run(source, image)[0]
    report = permute(source, [layer.name for layer in inspect(source).eligible])
    assert report.after > report.before + 0.01
    np.testing.assert_allclose(run(source, image)[0], before, rtol=1e-3, atol=1e-2)


def test_pruning_reorders_first_on_request() -> None:
    source = ModelProto()
    source.CopyFrom(CASES["residual"])
    report = prune(source, ["two"], permute=True)
    assert report.permutation is not None
    assert report.layers[0].kept == pytest.approx(report.permutation.after, rel=1e-5)
    assert inspect(source).layers[-1].state == "sparse"
