"""A graph while it is rewritten: nodes in order, constants by value, the shape of each tensor."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgesparse.model.shapes import shapes
from edgesparse.model.wiring import Array, Shape, Wiring, reads


class Editor:
    """A copy of a model with static shapes, rewritten in place; with `copy=False` the model itself, read only.

    Nodes stay in topological order. `wiring` and `known` (the shape of every tensor) are up to date after `store`,
    `insert`, `redirect` and `tidy`; call `changed` after changing nodes directly.
    """

    def __init__(self, model: ModelProto, *, copy: bool = True) -> None:
        self.model = model
        if copy:
            self.model = ModelProto()
            self.model.CopyFrom(model)
        self.graph = self.model.graph
        self._names = {name for node in self.graph.node for name in (*node.input, *node.output, node.name)}
        self._names |= {tensor.name for tensor in self.graph.initializer}

    @cached_property
    def wiring(self) -> Wiring:
        return Wiring(self.graph)

    @cached_property
    def known(self) -> dict[str, Shape]:
        return shapes(self.model, trusted=True)

    def changed(self) -> None:
        """Forget what was derived from the graph."""
        self.__dict__.pop("wiring", None)
        self.__dict__.pop("known", None)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of tensor `name`; None if it is not static."""
        shape = self.known.get(name, (None,))
        sizes = tuple(n for n in shape if n is not None)
        return sizes if len(sizes) == len(shape) else None

    def name(self, stem: str) -> str:
        """A name that is not in use yet."""
        name, count = stem, 1
        while name in self._names:
            name, count = f"{stem}_{count}", count + 1
        self._names.add(name)
        return name

    def store(self, value: Array, stem: str) -> str:
        """Add a constant and return its name."""
        name = self.name(stem)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self.changed()
        return name

    def node(self, operator: str, inputs: list[str], stem: str, **attributes: Any) -> NodeProto:
        """Create a node with one output; it is not yet in the graph."""
        name = self.name(stem)
        return helper.make_node(operator, inputs, [name], name, **attributes)

    def insert(self, node: NodeProto, before: NodeProto) -> str:
        """Insert `node` into the graph in front of `before`, and return its first output."""
        place = next(i for i, other in enumerate(self.graph.node) if other.output == before.output)
        self.graph.node.insert(place, node)
        self.changed()
        return node.output[0]

    def redirect(self, old: str, new: str) -> None:
        """Make every node that reads tensor `old` read `new`."""
        for node in self.graph.node:
            if old in node.input:
                node.input[:] = [new if name == old else name for name in node.input]
        self.changed()

    def tidy(self) -> None:
        """Remove nodes and constants that nothing reads."""
        needed = {value.name for value in self.graph.output}
        for node in reversed(self.graph.node):
            if needed.intersection(node.output):
                needed.update(reads(node))
        for i in reversed(range(len(self.graph.node))):
            if not needed.intersection(self.graph.node[i].output):
                del self.graph.node[i]
        for i in reversed(range(len(self.graph.initializer))):
            if self.graph.initializer[i].name not in needed:
                del self.graph.initializer[i]
        del self.graph.value_info[:]
        self.changed()
