"""Differences between channels are moved into the weights: outputs stay the same, ranges become equal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import ModelProto
from patterns import conv, relu, silu, weights
from small_models import Array, model, node, random, run

from edgesparse.int8.equalize import equalize
from edgesparse.model.activations import Batches, stream

C = 8
SPREAD = np.geomspace(1, 200, C).astype(np.float32)


def batches(count: int = 4) -> Batches:
    def restart() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        for i in range(count):
            yield random(1, C, 9, 9, seed=300 + i)

    return restart


def network(between: str, multiplier: int = 1, readers: int = 1, beside: bool = False) -> ModelProto:
    """A convolution with uneven output channels, an activation, depthwise convolutions, a convolution and the head."""
    tensors: dict[str, Array] = {**weights("first"), **weights("last", C * multiplier), **weights("head")}
    tensors["first.w"] = tensors["first.w"] * SPREAD[:, None, None, None]
    tensors["first.b"] = tensors["first.b"] * SPREAD
    tensors |= {"slope": random(C, 1, 1, seed=9) ** 2, "low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    activation = {
        "silu": silu("a", "b"),
        "relu": [relu("a", "b")],
        "prelu": [node("PRelu", ["a", "slope"], ["b"])],
        "relu6": [node("Clip", ["a", "low", "high"], ["b"])],
        "nothing": [],
    }[between]
    nodes = [conv("first", "x", "a" if activation else "b"), *activation]
    outs = [f"d{i}" for i in range(readers)]
    for out in outs:
        tensors |= {f"{out}.w": random(C * multiplier, 1, 3, 3, seed=11), f"{out}.b": random(C * multiplier, seed=12)}
        nodes.append(conv(out, "b", out, group=C, pads=[1, 1, 1, 1]))
    last = outs[0]
    if readers > 1:
        nodes.append(node("Add", outs, ["sum"], "add"))
        last = "sum"
    if beside:
        nodes.append(node("Add", [last, "b"], ["sum"], "add"))
        last = "sum"
    nodes += [conv("last", last, "l"), relu("l", "lr"), conv("head", "lr", "y")]
    return model(nodes, tensors, (1, C, 9, 9))


def check_same(before: ModelProto, after: ModelProto) -> None:
    for x in batches()():
        (old,), (new,) = run(before, x), run(after, x)
        assert np.abs(old - new).max() <= 1e-4 * np.abs(old).max()


def read_by(source: ModelProto, layer: str) -> str:
    return next(str(n.input[0]) for n in source.graph.node if n.name == layer)


@pytest.mark.parametrize("between", ["silu", "relu", "prelu", "relu6", "nothing"])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("readers", [1, 2])
def test_outputs_stay_and_channels_fill_the_range(between: str, multiplier: int, readers: int) -> None:
    before = network(between, multiplier, readers)
    after, result = equalize(before, batches(), (), lambda *step: None)
    if between == "relu6":  # clipped at 6, so there are no differences to move
        assert not result
        return
    assert len(result) == 1 and result[0].spread > 5 and result[0].layers == tuple(f"d{i}" for i in range(readers))
    check_same(before, after)
    name = read_by(after, "d0")
    largest = np.max([np.abs(v[name]).max((0, 2, 3)) for v in stream(after, batches(), [name])], axis=0)
    assert largest.min() > 0.8 * largest.max()


@pytest.mark.parametrize("between", ["relu", "prelu", "nothing"])
def test_through_a_relu_no_operator_is_added(between: str) -> None:
    before = network(between)
    after, result = equalize(before, batches(), (), lambda *step: None)
    assert result[0].folded and len(after.graph.node) == len(before.graph.node)


def test_through_silu_a_product_is_added_behind_it() -> None:
    before = network("silu")
    after, result = equalize(before, batches(), (), lambda *step: None)
    assert not result[0].folded and len(after.graph.node) == len(before.graph.node) + 1
    source = next(n for n in after.graph.node if n.output[0] == read_by(after, "d0"))
    assert source.op_type == "Mul" and source.input[0] == "b"


def test_a_tensor_with_other_readers_stays() -> None:
    before = network("silu", beside=True)
    after, result = equalize(before, batches(), (), lambda *step: None)
    assert not result and after == before


def test_layers_kept_in_float_stay_unchanged() -> None:
    before = network("silu")
    assert equalize(before, batches(), ("d0",), lambda *step: None)[1] == ()


def test_shared_weights_stay_unchanged() -> None:
    before = network("silu", readers=2)
    second = next(n for n in before.graph.node if n.name == "d1")
    second.input[1] = "d0.w"
    assert equalize(before, batches(), (), lambda *step: None)[1] == ()


def test_a_channel_of_zeros_stays_zero() -> None:
    before = network("relu")
    for tensor in before.graph.initializer:
        if tensor.name in ("first.w", "first.b"):
            values = np.frombuffer(tensor.raw_data, np.float32).reshape(tuple(tensor.dims)).copy()
            values[2] = 0
            tensor.raw_data = values.tobytes()
    after, result = equalize(before, batches(), (), lambda *step: None)
    assert result
    check_same(before, after)


def test_even_channels_stay_unchanged() -> None:
    even, _ = equalize(network("silu"), batches(), (), lambda *step: None)
    again, result = equalize(even, batches(), (), lambda *step: None)
    assert not result and again == even
