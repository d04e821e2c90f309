"""Takes channels out of a graph: out of weights, constants, Splits and Slices, with nodes that compute nothing else.

A convolution whose inputs are all removed computes its bias everywhere; the bias is carried through activations as a
constant, up to the operation that combines it with other values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

from edgesparse.compress.coupled import Coupled
from edgesparse.compress.editor import Editor
from edgesparse.compress.sites import Inapplicable
from edgesparse.model.layers import POINTWISE
from edgesparse.model.wiring import Array, attribute
from edgesparse.sparsity.channels import Channels


def remove(coupled: Coupled, model: ModelProto, dropped: Collection[int]) -> ModelProto:
    """Return a copy of `model` without the channels `dropped`, numbers from blocks of `coupled`.

    `model` has the graph of the model that `coupled` was computed from; weights may differ and biases be added.
    Convolutions that read a removed channel lose the weights for it, so the outputs stay the same where those were
    zero. Without `dropped` the copy is equal byte for byte. Raises Inapplicable, naming the node, where an operation
    would be left without input.
    """
    if not dropped:
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    return _Removal(coupled, model, dropped).run()


class _Removal:
    def __init__(self, coupled: Coupled, model: ModelProto, dropped: Collection[int]) -> None:
        self.flow, self.source, self.editor = coupled.flow, Editor(model, copy=False), Editor(model)
        self.kept = ~np.isin(coupled.find, list(dropped))
        self.constants: dict[str, Array] = {}
        """Tensors that became constant, in the shape of their operation's output with 1 for each position."""
        self.dropped: set[str] = set()
        """Tensors without channels, and those whose node was replaced."""

    def run(self) -> ModelProto:
        nodes = {node.output[0]: node for node in self.editor.graph.node}
        self._cut_constants(nodes)
        for node in list(self.editor.graph.node):
            keeps = [self._keeps(name) for name in node.output if name]
            if all(keep.size and not keep.any() for keep in keeps):
                self.dropped.update(node.output)
            else:
                self._visit(node)
        left = [node for node in self.editor.graph.node if not self.dropped.issuperset(filter(None, node.output))]
        del self.editor.graph.node[:]
        self.editor.graph.node.extend(left)
        self.editor.changed()
        self.editor.tidy()
        return self.editor.model

    def _keeps(self, name: str) -> NDArray[np.bool_]:
        """Which channels of tensor `name` stay; empty if its channels are not followed."""
        channels = self.flow.at.get(name)
        return np.zeros(0, np.bool_) if channels is None else self.kept[channels.ids]

    def _cut_constants(self, nodes: dict[str, NodeProto]) -> None:
        values: dict[tuple[str, int], Array] = {}
        for output, position, axis, channels in self._places(nodes):
            keeps = self.kept[channels.ids]
            if keeps.all():
                continue
            if (output, position) not in values:
                value = self.source.wiring.constant(nodes[output].input[position])
                assert value is not None
                values[output, position] = value
            values[output, position] = np.compress(keeps, values[output, position], axis)
        for (output, position), value in values.items():
            node = nodes[output]
            node.input[position] = self.editor.store(value, node.input[position])

    def _places(self, nodes: Mapping[str, NodeProto]) -> Iterator[tuple[str, int, int, Channels]]:
        """Every constant with an entry per channel: the node that reads it, at which input, its axis, the channels."""
        for use, _ in self.flow.weights:
            output = use.node.output[0]
            yield output, 1, use.axis, use.channels
            # a refit may have added the bias
            if use.axis == 0 and len(nodes[output].input) > 2 and nodes[output].input[2]:
                yield output, 2, 0, use.channels
        for use in self.flow.stored:
            if use.node.op_type != "Conv":
                yield use.node.output[0], use.position, use.axis, use.channels

    def _visit(self, node: NodeProto) -> None:
        if any(name in self.constants for name in node.input):
            self._elementwise(node)
        elif node.op_type == "Conv":
            self._conv(node)
        elif node.op_type == "Concat":
            self._concat(node)
        elif node.op_type == "Split" and self._keeps(node.input[0]).size:
            self._split(node)
        elif node.op_type == "Slice" and self._keeps(node.input[0]).size:
            self._slice(node)
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] and self._keeps(node.output[0]).size:
            sizes = self.source.wiring.constant(node.input[3])
            if sizes is not None and len(sizes) == 4:
                sizes = np.array([sizes[0], self._keeps(node.output[0]).sum(), *sizes[2:]], sizes.dtype)
                node.input[3] = self.editor.store(sizes, node.input[3])

    def _conv(self, node: NodeProto) -> None:
        before, after = self._keeps(node.input[0]), self._keeps(node.output[0])
        group = attribute(node, "group", 1)
        if group > 1 and after.size and not after.all():
            part = next(part for part in node.attribute if part.name == "group")
            part.i = int(after.sum())
        elif group == 1 and before.size and not before.any():
            weight = self.editor.wiring.constant(node.input[1])
            assert weight is not None
            bias = self.editor.wiring.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            value: Array = np.zeros(len(weight), weight.dtype) if bias is None else bias
            self._becomes(node, value.reshape(1, -1, *[1] * (weight.ndim - 2)))

    def _becomes(self, node: NodeProto, value: Array) -> None:
        name = node.output[0]
        if name in self.source.wiring.outputs:
            raise Inapplicable(node, "would be a constant, and is an output")
        self.constants[name] = value
        self.dropped.add(name)

    def _elementwise(self, node: NodeProto) -> None:
        """Compute an operation whose inputs are all constant; store those of one that reads other values too."""
        if node.op_type not in POINTWISE and node.op_type not in ("Identity", "Cast"):
            raise Inapplicable(node, "would read a constant")
        values = [self.constants.get(name, self.editor.wiring.constant(name)) for name in node.input]
        if all(value is not None or not name for value, name in zip(values, node.input, strict=True)):
            feeds = {name: value for name, value in zip(node.input, values, strict=True) if name}
            results: Any = ReferenceEvaluator(_alone(self.editor.model, node)).run(None, feeds)
            self._becomes(node, np.asarray(results[0]))
            return
        shape = self.source.shape(node.output[0])
        if not any(
            self.source.shape(name) == shape for name, value in zip(node.input, values, strict=True) if value is None
        ):
            raise Inapplicable(node, "would read a constant")
        for i, name in enumerate(node.input):
            if name in self.constants:
                node.input[i] = self.editor.store(self.constants[name], name)

    def _concat(self, node: NodeProto) -> None:
        keeps = [self._keeps(name) for name in node.input]
        parts = [name for name, keep in zip(node.input, keeps, strict=True) if not keep.size or keep.any()]
        if len(parts) == 1 < len(node.input):
            node.CopyFrom(helper.make_node("Identity", parts, node.output, node.name))
        else:
            node.input[:] = parts

    def _split(self, node: NodeProto) -> None:
        outputs = [name for name in node.output if self._keeps(name).any()]
        sizes = np.array([self._keeps(name).sum() for name in outputs], np.int64)
        if len(outputs) == 1:
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], outputs, node.name))
            return
        del node.output[:]
        node.output.extend(outputs)
        kept = [part for part in node.attribute if part.name not in ("split", "num_outputs")]
        del node.attribute[:]
        node.attribute.extend(kept)
        if next(entry.version for entry in self.editor.model.opset_import if entry.domain in ("", "ai.onnx")) < 13:
            node.attribute.append(helper.make_attribute("split", sizes.tolist()))
        else:
            del node.input[1:]
            node.input.append(self.editor.store(sizes, f"{outputs[0]}.sizes"))

    def _slice(self, node: NodeProto) -> None:
        """New bounds for a range of channels: those before it that stay, and those within it."""
        bounds = [self.source.wiring.constant(name) for name in node.input[1:4]]
        starts, ends, axes = (np.array(bound) for bound in bounds)
        whole, part = self.flow.at[node.input[0]], self.flow.at[node.output[0]]
        for i in np.flatnonzero(axes == 1):
            first = slice(int(starts[i]), None).indices(len(whole.ids))[0]
            starts[i] = self.kept[whole.ids[:first]].sum()
            ends[i] = starts[i] + self.kept[part.ids].sum()
        node.input[1], node.input[2] = (
            self.editor.store(value, f"{node.output[0]}.{what}") for value, what in ((starts, "starts"), (ends, "ends"))
        )


def _alone(model: ModelProto, node: NodeProto) -> ModelProto:
    names = [name for name in node.input if name]
    inputs = [helper.make_tensor_value_info(name, 1, None) for name in dict.fromkeys(names)]
    graph = helper.make_graph([node], "node", inputs, [helper.make_tensor_value_info(node.output[0], 1, None)])
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
