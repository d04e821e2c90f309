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
from edgesparse.progress import quiet

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


@pytest.mark.parametrize("between", ["relu", "prelu", "relu6", "nothing"])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("readers", [1, 2])
def test_outputs_stay_and_channels_fill_the_range(between: str, multiplier: int, readers: int) -> None:
    before = network(between, multiplier, readers)
    equalized = equalize(before, batches(), (), quiet)
    after, result = equalized.model, equalized.tensors
    assert not equalized.uneven
    if between == "relu6":  # clipped at 6, so there are no differences to move
        assert not result
        return
    assert len(result) == 1 and result[0].spread > 5 and result[0].layers == tuple(f"d{i}" for i in range(readers))
    check_same(before, after)
    name = read_by(after, "d0")
    largest = np.max([np.abs(v[name]).max((0, 2, 3)) for v in stream(after, batches(), [name])], axis=0)
    assert largest.min() > 0.8 * largest.max()


@pytest.mark.parametrize("between", ["relu", "prelu", "nothing"])
def test_no_operator_is_added(between: str) -> None:
    before = network(between)
    assert len(equalize(before, batches(), (), quiet).model.graph.node) == len(before.graph.node)


def test_layers_that_read_uneven_channels_behind_silu_are_named() -> None:
    before = network("silu", readers=2)
    equalized = equalize(before, batches(), (), quiet)
    assert equalized.model == before and not equalized.tensors
    assert set(equalized.uneven) == {"d0", "d1"} and min(equalized.uneven.values()) > 5


def test_a_tensor_with_other_readers_stays() -> None:
    before = network("silu", beside=True)
    equalized = equalize(before, batches(), (), quiet)
    assert not equalized.tensors and not equalized.uneven and equalized.model == before


def test_layers_kept_in_float_stay_unchanged() -> None:
    for between in ("silu", "relu"):
        equalized = equalize(network(between), batches(), ("d0",), quiet)
        assert not equalized.tensors and not equalized.uneven


def test_shared_weights_stay_unchanged() -> None:
    before = network("silu", readers=2)
    second = next(n for n in before.graph.node if n.name == "d1")
    second.input[1] = "d0.w"
    equalized = equalize(before, batches(), (), quiet)
    assert not equalized.tensors and not equalized.uneven


def test_a_channel_of_zeros_stays_zero() -> None:
    before = network("relu")
    for tensor in before.graph.initializer:
        if tensor.name in ("first.w", "first.b"):
            values = np.frombuffer(tensor.raw_data, np.float32).reshape(tuple(tensor.dims)).copy()
            values[2] = 0
            tensor.raw_data = values.tobytes()
    equalized = equalize(before, batches(), (), quiet)
    assert equalized.tensors
    check_same(before, equalized.model)


def test_even_channels_stay_unchanged() -> None:
    even = equalize(network("relu"), batches(), (), quiet).model
    again = equalize(even, batches(), (), quiet)
    assert not again.tensors and again.model == even
