"""Channels that nothing reads can be taken out of any graph: same outputs, consistent shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, numpy_helper
from small_models import Array, model, node, random, run

from edgesparse.compress.coupled import Coupled
from edgesparse.compress.removal import remove
from edgesparse.compress.sites import Inapplicable
from edgesparse.compress.student import shared_features
from edgesparse.errors import SparsityError
from edgesparse.model.wiring import Wiring


@dataclass
class Graph:
    """A graph while it is drawn: nodes, constants, and the channels of each tensor."""

    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def add(self, operator: str, inputs: list[str], width: int, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(operator, inputs, [name], f"n{len(self.nodes)}", **attributes))
        self.widths[name] = width
        return name

    def conv(self, source: str, width: int, kernel: int, groups: int = 1) -> str:
        weight = f"w{len(self.nodes)}"
        self.tensors[weight] = random(width, self.widths[source] // groups, kernel, kernel, seed=len(self.nodes)) / 4
        self.tensors[f"{weight}b"] = random(width, seed=len(self.nodes))
        pads = [kernel // 2] * 4
        return self.add("Conv", [source, weight, f"{weight}b"], width, pads=pads, group=groups)


@st.composite
def graphs(draw: st.DrawFn) -> ModelProto:
    """A random network of the operators that detectors are made of, on 4x4 maps."""
    graph = Graph(widths={"x": 3})
    maps = [graph.conv("x", draw(st.sampled_from([4, 6])), 1)]
    for _ in range(draw(st.integers(2, 7))):
        source = draw(st.sampled_from(maps))
        width = graph.widths[source]
        kinds = [
            "conv",
            "depthwise",
            "act",
            "silu",
            "add",
            "concat",
            "pool",
            *(["split", "slice"] if width > 1 else []),
        ]
        kind = draw(st.sampled_from(kinds))
        others = [name for name in maps if graph.widths[name] == width]
        if kind == "conv":
            maps.append(graph.conv(source, draw(st.sampled_from([4, 6])), draw(st.sampled_from([1, 3]))))
        elif kind == "depthwise":
            maps.append(graph.conv(source, width, 3, width))
        elif kind == "act":
            maps.append(graph.add(draw(st.sampled_from(["Relu", "Sigmoid", "Tanh"])), [source], width))
        elif kind == "silu":
            maps.append(graph.add("Mul", [source, graph.add("Sigmoid", [source], width)], width))
        elif kind == "add":
            maps.append(graph.add("Add", [source, draw(st.sampled_from(others))], width))
        elif kind == "concat":
            other = draw(st.sampled_from(maps))
            maps.append(graph.add("Concat", [source, other], width + graph.widths[other], axis=1))
        else:
            {"split": _split, "slice": _sliced, "pool": _resized}[kind](graph, maps, source)
    graph.conv(draw(st.sampled_from(maps)), 5, 1)
    last = node("Conv", graph.nodes.pop().input, ["y"], "last")
    return model([*graph.nodes, last], graph.tensors, (1, 3, 4, 4))


def _split(graph: Graph, maps: list[str], source: str) -> None:
    width, number = graph.widths[source], len(graph.nodes)
    sizes = [2, width - 2] if width > 2 else [1, width - 1]
    graph.tensors[f"sizes{number}"] = np.array(sizes)
    names = [f"t{number}", f"t{number}_1"]
    graph.nodes.append(node("Split", [source, f"sizes{number}"], names, f"n{number}", axis=1))
    graph.widths |= dict(zip(names, sizes, strict=True))
    maps += names


def _sliced(graph: Graph, maps: list[str], source: str) -> None:
    width = graph.widths[source]
    graph.tensors |= {"i1": np.array([1]), f"e{width}": np.array([width])}
    maps.append(graph.add("Slice", [source, "i1", f"e{width}", "i1"], width - 1))


def _resized(graph: Graph, maps: list[str], source: str) -> None:
    width = graph.widths[source]
    pooled = graph.add("MaxPool", [source], width, kernel_shape=[2, 2], strides=[2, 2])
    graph.tensors[f"sizes_{width}"] = np.array([1, width, 4, 4])
    maps.append(graph.add("Resize", [pooled, "", "", f"sizes_{width}"], width, mode="nearest"))


def blinded(source: ModelProto, coupled: Coupled, dropped: set[int]) -> ModelProto:
    """A copy in which no convolution reads the channels `dropped`."""
    copy = ModelProto.FromString(source.SerializeToString())
    wiring = Wiring(copy.graph)
    for use, weight in coupled.flow.weights:
        if use.axis == 1:
            values = numpy_helper.to_array(wiring.stored[weight.source]).copy()
            values[:, np.isin(coupled.find[use.channels.ids], list(dropped))] = 0
            wiring.store(weight.source, values)
    return copy


@settings(max_examples=25)
@given(graphs(), st.randoms(use_true_random=False))
def test_channels_that_nothing_reads_leave_outputs_and_shapes_as_they_are(source: ModelProto, choice: object) -> None:
    try:
        coupled = Coupled(source)
    except SparsityError as error:
        assert "no channels can be removed: " in str(error)
        return
    assert remove(coupled, source, ()).SerializeToString() == source.SerializeToString()
    dropped = set[int]()
    for block in coupled.blocks:
        dropped |= set(choice.sample(block.ids, choice.randint(0, len(block.ids))))  # type: ignore[attr-defined]
    blind = blinded(source, coupled, dropped)
    try:
        removed = remove(coupled, blind, dropped)
    except Inapplicable as error:
        assert str(error).split()[0] in {entry.op_type for entry in source.graph.node}
        return
    onnx.checker.check_model(removed, full_check=True)
    assert sum(np.prod(t.dims) for t in removed.graph.initializer if len(t.dims) == 4) <= sum(
        np.prod(t.dims) for t in source.graph.initializer if len(t.dims) == 4
    )
    np.testing.assert_allclose(run(blind)[0], run(removed)[0], rtol=1e-4, atol=1e-4)


def bottleneck() -> ModelProto:
    """Two paths of one tensor, one with a residual bottleneck, concatenated and read by the last convolution."""
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], "first"),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1"], ["c1"], "inner"),
        node("Sigmoid", ["c1"], ["s1"]),
        node("Conv", ["s1", "w2", "b2"], ["c2"], "outer"),
        node("Relu", ["c2"], ["r2"]),
        node("Add", ["r0", "r2"], ["sum"]),
        node("Conv", ["r0", "w3"], ["c3"], "other"),
        node("Concat", ["sum", "c3"], ["all"], "join", axis=1),
        node("Conv", ["all", "w4"], ["y"], "last"),
    ]
    shapes = {"w0": (8, 3, 1, 1), "w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1), "w3": (6, 8, 1, 1), "w4": (5, 14, 1, 1)}
    tensors = {name: random(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return model(nodes, tensors | {"b2": random(8, seed=9)}, (1, 3, 4, 4))


def test_blocks_are_what_must_go_together() -> None:
    blocks = {block.name: block for block in Coupled(bottleneck()).blocks}
    assert {name: len(block.ids) for name, block in blocks.items()} == {"first": 8, "inner": 4, "other": 6}
    assert blocks["first"].writers == ("first", "outer")  # added to each other
    assert [reader.name for reader in blocks["first"].readers] == ["inner", "other", "last"]
    assert blocks["other"].readers[0].places.ravel().tolist() == list(range(8, 14))  # behind the sum, in the Concat


@pytest.mark.parametrize(("name", "left"), [("inner", ["Add", "Concat"]), ("other", ["Add"])])
def test_a_branch_without_channels_is_gone_with_its_layers(name: str, left: list[str]) -> None:
    source = bottleneck()
    coupled = Coupled(source)
    dropped = set(next(block for block in coupled.blocks if block.name == name).ids)
    removed = remove(coupled, blinded(source, coupled, dropped), dropped)
    assert [entry.op_type for entry in removed.graph.node if entry.op_type in ("Add", "Concat")] == left
    assert name not in [entry.name for entry in removed.graph.node]
    np.testing.assert_allclose(run(blinded(source, coupled, dropped))[0], run(removed)[0], rtol=1e-5, atol=1e-5)
    # as the student of a distillation, it is compared with its teacher at the tensors that both have in one shape
    assert shared_features(source, removed, ["y"])[0] == (["c0", "c3"] if name == "inner" else ["c0", "c1", "c2"])


def test_a_removal_that_leaves_an_operation_nothing_names_it() -> None:
    source = bottleneck()
    coupled = Coupled(source)
    first = next(block for block in coupled.blocks if block.name == "first")
    with pytest.raises(Inapplicable, match="Concat join would read a constant"):
        remove(coupled, source, first.ids)


def test_channels_that_cannot_be_followed_are_refused_by_the_node() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], "first"),
        node("Reshape", ["c", "flat"], ["r"], "flatten"),
        node("Relu", ["r"], ["y"], "act"),
    ]
    with pytest.raises(SparsityError, match="they reach Reshape flatten, past which channels cannot be followed"):
        Coupled(model(nodes, {"w": random(8, 3, 1, 1), "flat": np.array([1, 8, 16])}, (1, 3, 4, 4)))


def test_a_quantized_model_is_refused() -> None:
    nodes = [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])]
    with pytest.raises(SparsityError, match="remove channels from the float model"):
        Coupled(model(nodes, {"s": np.array(0.1, np.float32)}, (1, 3, 32, 32)))
