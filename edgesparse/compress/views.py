"""Folds the channels that a Split, Slice or shuffle selects into the weights, so that it needs no node.

A view says that a tensor holds certain channels of another, larger one. Its readers are changed so that they read the
larger tensor: a convolution gets zero weights for the channels that it must not see, an elementwise operation works on
all channels, a Concat joins the views of its inputs. Where a plain tensor and a view are added, the convolution that
computes the plain tensor gets zero weights so that both have the same layout. The model's outputs do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from edgesparse.compress.channels import channel_shuffle, sliced_channels
from edgesparse.compress.editor import Editor
from edgesparse.compress.sites import Inapplicable
from edgesparse.model.layers import POINTWISE
from edgesparse.model.wiring import attribute

PER_VALUE = POINTWISE - {"Div", "Pow", "Log", "Reciprocal", "Sqrt", "Exp", "BatchNormalization"}
"""Operations that stay finite on unused channels: a zero weight does not cancel NaN or infinity."""
PER_CHANNEL = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Identity", "Cast"))
"""Operations, besides the elementwise ones, that treat all channels alike and keep their order."""


@dataclass(frozen=True)
class View:
    """The channels `index`, in this order, of `tensor`, which has `size` channels."""

    tensor: str
    index: NDArray[np.intp]
    size: int

    def same(self, other: View) -> bool:
        return self.size == other.size and np.array_equal(self.index, other.index)


def fold(model: ModelProto, views: Mapping[str, View]) -> ModelProto:
    """A copy of `model` in which nothing reads the tensors in `views`. Raises Inapplicable."""
    source, laid_out = Editor(model, copy=False), dict[str, View]()
    while True:
        folding = _Folding(source, dict(views), laid_out)
        try:
            return folding.run()
        except _Unlike as plain:
            conv = _computed_by(source, plain.name, plain.node)
            if conv in laid_out:
                raise Inapplicable(plain.node, "needs channels in two orders") from None
            laid_out[conv] = plain.view


class _Unlike(Exception):
    """`node` combines the plain tensor `name` with `view`."""

    def __init__(self, name: str, view: View, node: NodeProto) -> None:
        super().__init__(name)
        self.name, self.view, self.node = name, view, node


class _Folding:
    """One walk over the graph. `laid_out`: the channel layout that convolutions must write, by their output."""

    def __init__(self, source: Editor, views: dict[str, View], laid_out: Mapping[str, View]) -> None:
        self.source, self.views, self.laid_out = source, views, laid_out
        self.wiring = source.wiring
        self.editor = Editor(source.model)
        self._computed: dict[bytes, str] = {}
        """The output of each rewritten node, by what it computes, so that nothing is computed twice."""

    def run(self) -> ModelProto:
        for node in self.editor.graph.node:
            if node.output[0] in self.views:
                continue
            if any(name in self.views for name in node.input) or node.output[0] in self.laid_out:
                self._rewrite(node)
        self.editor.tidy()
        return self.editor.model

    def _rewrite(self, node: NodeProto) -> None:
        if node.op_type == "Conv":
            self._conv(node)
        elif node.op_type == "Concat" and attribute(node, "axis") in (1, -3):
            self._concat(node)
        elif (parts := sliced_channels(self.source, node)) is not None:
            whole = self.views[node.input[0]]
            for name, index in parts.items():
                self.views[name] = View(whole.tensor, whole.index[index], whole.size)
        elif (shuffle := channel_shuffle(self.source, node)) is not None:
            whole = self.views[node.input[0]]
            self.views[shuffle.output] = View(whole.tensor, whole.index[shuffle.index], whole.size)
        elif node.op_type in PER_VALUE or node.op_type in PER_CHANNEL:
            self._per_value(node)
        else:
            raise Inapplicable(node)
        if not self.wiring.outputs.isdisjoint(self.views.keys() & set(node.output)):
            raise Inapplicable(node, "is an output")

    def _conv(self, node: NodeProto) -> None:
        view, target = self.views.get(node.input[0]), self.laid_out.get(node.output[0])
        weight = self.wiring.constant(node.input[1])
        group = attribute(node, "group", 1)
        if weight is None or not (group == 1 or group == len(weight)):
            raise Inapplicable(node)
        if group > 1:
            if weight.shape[1] > 1:
                raise Inapplicable(node)
            if view is None or (target is not None and not view.same(target)):
                assert target is not None
                raise _Unlike(node.input[0], target, node) if view is None else Inapplicable(node)
            target = view
        elif view is not None:
            wide = np.zeros((view.size, len(weight), *weight.shape[2:]), weight.dtype)
            np.add.at(wide, view.index, weight.swapaxes(0, 1))
            weight = wide.swapaxes(0, 1)
        if view is not None:
            node.input[0] = view.tensor
        bias = self.wiring.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if target is not None:
            weight, bias = self._lay_out(node, target, weight, bias)
        node.input[1] = self.editor.store(weight, node.input[1])
        if bias is not None:
            node.input[2] = self.editor.store(bias, node.input[2])

    def _lay_out(
        self, node: NodeProto, target: View, weight: NDArray[np.floating], bias: NDArray[np.floating] | None
    ) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
        """The weights with which `node` writes its channels to positions `target.index`, and zeros elsewhere."""
        if len(np.unique(target.index)) < len(target.index) or len(target.index) != len(weight):
            raise Inapplicable(node, "would write a channel twice")
        wide = np.zeros((target.size, *weight.shape[1:]), weight.dtype)
        wide[target.index] = weight
        if bias is not None:
            added = np.zeros(target.size, bias.dtype)
            added[target.index] = bias
            bias = added
        for part in node.attribute:
            if part.name == "group" and part.i > 1:
                part.i = target.size
        self.views[node.output[0]] = View(node.output[0], target.index, target.size)
        return wide, bias

    def _concat(self, node: NodeProto) -> None:
        parts = [self.views.get(name) or self._whole(name) for name in node.input]
        starts: dict[str, int] = {}
        size = 0
        for part in parts:
            if part.tensor not in starts:
                starts[part.tensor] = size
                size += part.size
        index = np.concatenate([part.index + starts[part.tensor] for part in parts])
        if len(starts) == 1:
            self.views[node.output[0]] = View(parts[0].tensor, index, size)
        else:
            node.input[:] = list(starts)
            self.views[node.output[0]] = View(node.output[0], index, size)

    def _whole(self, name: str) -> View:
        count = self.source.known[name][1]
        assert count is not None
        return View(name, np.arange(count), count)

    def _per_value(self, node: NodeProto) -> None:
        view = next(self.views[name] for name in node.input if name in self.views)
        inputs = list(node.input)
        for i, name in enumerate(inputs):
            if name in self.views:
                if not self.views[name].same(view):
                    raise Inapplicable(node, "reads channels in two orders")
                inputs[i] = self.views[name].tensor
            elif name and not self.wiring.is_constant(name):
                raise _Unlike(name, view, node)
            elif name and self._is_per_channel(node, i):
                raise Inapplicable(node, "has a constant per channel")
        node.input[:] = inputs
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        del copy.output[:]
        tensor = self._computed.setdefault(copy.SerializeToString(deterministic=True), node.output[0])
        self.views[node.output[0]] = View(tensor, view.index, view.size)

    def _is_per_channel(self, node: NodeProto, place: int) -> bool:
        if node.op_type == "Resize":
            return place == 3  # the sizes of all axes, that of the channels included
        value = self.wiring.constant(node.input[place])
        return value is None or value.size > 1


def _computed_by(editor: Editor, name: str, reader: NodeProto) -> str:
    """The output of the convolution that computes tensor `name`, directly or through elementwise operations."""
    while True:
        node = editor.wiring.producer.get(name)
        if node is None or name in editor.wiring.outputs:
            raise Inapplicable(reader, f"reads {name}")
        if node.op_type == "Conv":
            return name
        if node.op_type not in PER_VALUE and node.op_type not in PER_CHANNEL:
            raise Inapplicable(node)
        name = next((i for i in node.input if i and not editor.wiring.is_constant(i)), "")
