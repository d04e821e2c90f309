"""Where to insert Q/DQ pairs in a detector so that TensorRT runs it in INT8: on which tensors, for which readers.

TensorRT's developer guide, "Q/DQ Layer-Placement Recommendations": quantize the inputs of weighted operations and leave
their outputs alone, so that what follows fuses with them; of a residual addition quantize only the shortcut. Operations
that only move values commute with Q/DQ: their inputs and outputs share one scale, so that TensorRT can cancel the pairs
between them, and a concatenation becomes a copy of bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto

from edgesparse.int8.layers import COMMUTE, Kernel, int8_layers, runs_sparse
from edgesparse.model.layers import POINTWISE, RELU
from edgesparse.model.weights import LAYERS
from edgesparse.model.wiring import Wiring, attribute, reads

Placement = Literal["fuse", "sparse"]


@dataclass(frozen=True)
class QdqPlan:
    """`kernels`: the INT8 layers in graph order. `float_because`: why each other layer stays float, by name.

    `readers`: for each quantized tensor the nodes, by their first output, that read it through its Q/DQ pair, and at
    which inputs. `scales_of`: the representative of each quantized tensor; tensors with the same one share a scale.
    """

    kernels: list[Kernel]
    float_because: dict[str, str]
    readers: dict[str, dict[str, set[int]]]
    scales_of: dict[str, str]


def plan(model: ModelProto, placement: Placement = "fuse", keep: Collection[str] = ()) -> QdqPlan:
    """Decide for every layer and tensor of `model` whether it is INT8. Raises what `int8_layers` raises."""
    wiring = Wiring(model.graph)
    kernels, float_because = int8_layers(model, wiring, keep)
    edges = _Edges(wiring, kernels)
    edges.place()
    if placement == "sparse":
        for kernel in kernels:
            if runs_sparse(wiring, kernel):
                edges.behind(kernel.node)
    readers = {name: edges.readers[name] for name in edges.in_order()}
    return QdqPlan(kernels, float_because, readers, {name: edges.find(name) for name in readers})


class _Edges:
    """Which nodes read which tensors through Q/DQ, and which tensors share one scale."""

    def __init__(self, wiring: Wiring, kernels: list[Kernel]) -> None:
        self.wiring = wiring
        self.kernels = {kernel.node.output[0]: kernel for kernel in kernels}
        self.readers: defaultdict[str, dict[str, set[int]]] = defaultdict(dict)
        self.order = {name: i for i, node in enumerate(wiring.graph.node) for name in node.output}
        self.moving = _activations(wiring)
        self.origin = _origins(wiring, self.moving)
        self._parent: dict[str, str] = {}

    def place(self) -> None:
        for kernel in self.kernels.values():
            self._read(kernel.reads, kernel.node, {1 - kernel.at})
        for node in self.wiring.graph.node:
            if node.op_type == "Add":
                self._shortcut(node)
        for node in reversed(list(self.wiring.graph.node)):
            self._pass_back(node)
        self._drop_single_moves()

    def behind(self, node: NodeProto) -> None:
        """Insert Q/DQ directly after a layer and its ReLU for all readers, so that the layer itself writes INT8."""
        out = self._after_relu(node.output[0])
        if out in self.wiring.outputs:
            return
        for reader in self.wiring.consumers[out]:
            self._read(out, reader, {i for i, name in enumerate(reader.input) if name == out})

    def find(self, name: str) -> str:
        """Return the representative of all tensors that share a scale with `name`."""
        while self._parent.get(name, name) != name:
            name = self._parent[name]
        return name

    def in_order(self) -> Iterator[str]:
        """Return the quantized tensors: the model's inputs first, then in order of execution."""
        computed = [name for node in self.wiring.graph.node for name in node.output]
        known = set(computed)
        yield from (name for name in self.readers if name not in known)
        yield from (name for name in computed if name in self.readers)

    def _read(self, name: str, reader: NodeProto, places: set[int]) -> None:
        if places:
            self.readers[name].setdefault(reader.output[0], set()).update(places)

    def _join(self, first: str, second: str) -> None:
        self._parent[self.find(first)] = self.find(second)

    def _after_relu(self, name: str) -> str:
        after = self.wiring.consumers[name]
        while len(after) == 1 and after[0].op_type in RELU and name not in self.wiring.outputs:
            name = after[0].output[0]
            after = self.wiring.consumers[name]
        return name

    def _pass_back(self, node: NodeProto) -> None:
        """Make a node that moves values to INT8 readers read INT8 too, at the same scale."""
        outs = [name for name in node.output if name in self.readers]
        if node.op_type == "Concat" and outs and self.moving.issuperset(node.input):
            for i, name in enumerate(node.input):
                self._read(name, node, {i})
                self._join(name, outs[0])
        elif outs and _commutes(node) and node.input[0] in self.moving:
            self._read(node.input[0], node, {0})
            for name in outs:
                self._join(name, node.input[0])

    def _drop_single_moves(self) -> None:
        """Drop the pair before a node that moves one tensor to one reader: the pair after it is enough."""
        quantized = set(self.readers)
        for name, by in list(self.readers.items()):
            nodes = [node for node in self.wiring.consumers[name] if node.output[0] in by]
            if len(nodes) == 1 and nodes[0].op_type in COMMUTE and len(quantized.intersection(nodes[0].output)) == 1:
                del self.readers[name]

    def _shortcut(self, node: NodeProto) -> None:
        """Quantize the input of a residual addition that does not come directly from an INT8 layer: the other fuses.

        If both do, the later one fuses, preferably one without other readers.
        """
        if len(set(node.input)) < 2 or not self.moving.issuperset(node.input) or not self._leads_to_int8(node):
            return
        own = [i for i, name in enumerate(node.input) if self.origin.get(name) in self.kernels]
        if own:
            alone = {i: len(self.wiring.consumers[node.input[i]]) == 1 for i in own}
            main = max(own, key=lambda i: (alone[i], self.order[node.input[i]]))
            self._read(node.input[1 - main], node, {1 - main})

    def _leads_to_int8(self, node: NodeProto) -> bool:
        """Whether an INT8 layer follows anywhere after `node`."""
        todo, seen = list(node.output), set[str]()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for reader in self.wiring.consumers[name]:
                if reader.output[0] in self.kernels:
                    return True
                todo.extend(reader.output)
        return False


def _commutes(node: NodeProto) -> bool:
    if node.op_type == "Resize" and attribute(node, "mode", b"nearest") not in (b"nearest", b"linear"):
        return False
    return node.op_type in COMMUTE


def _activations(wiring: Wiring) -> set[str]:
    """Return the tensors that depend on the image."""
    names = {value.name for value in wiring.graph.input} - wiring.stored.keys()
    for node in wiring.graph.node:
        if not names.isdisjoint(reads(node)):
            names.update(node.output)
    return names


def _origins(wiring: Wiring, moving: Set[str]) -> dict[str, str]:
    """Tensors that follow a layer through pointwise operations only -> that layer's first output."""
    origin: dict[str, str] = {}
    for node in wiring.graph.node:
        if node.op_type in LAYERS:
            origin[node.output[0]] = node.output[0]
        elif node.op_type in POINTWISE:
            origins = {origin.get(name) for name in node.input if name in moving}
            layer = origins.pop() if len(origins) == 1 else None
            if layer is not None:
                origin[node.output[0]] = layer
    return origin
