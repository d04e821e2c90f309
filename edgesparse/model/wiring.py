"""How a graph is connected: which node writes each tensor, which nodes read it, and which tensors are stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from edgesparse.errors import SparsityError

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]
"""A dynamic dimension is None."""


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of the attribute `name` of `node`, or `default` if it is not set."""
    for a in node.attribute:
        if a.name == name:
            return onnx.helper.get_attribute_value(a)
    return default


def reads(node: NodeProto) -> list[str]:
    """Return the tensors that `node` reads, including those inside its subgraphs (branches of If, body of Loop), each
    once.
    """
    names = dict.fromkeys(node.input)
    for a in node.attribute:
        for graph in (*a.graphs, *([a.g] if a.HasField("g") else ())):
            names.update(dict.fromkeys(name for inner in graph.node for name in reads(inner)))
            names.update(dict.fromkeys(out.name for out in graph.output))
    return list(names)


class Wiring:
    """The producer and the consumers of each tensor of `graph`, and the stored tensors.

    Valid until nodes or initializers are added or removed; values may be rewritten with `store`.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.producer = {out: node for node in graph.node for out in node.output if out}
        self.consumers: defaultdict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in reads(node):
                self.consumers[name].append(node)
        self.outputs = {out.name for out in graph.output}
        self.stored: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.stored[node.output[0]] = node.attribute[0].t
        self._constant: dict[str, bool] = {}

    def constant(self, name: str) -> Array | None:
        """Return the value of tensor `name` if it is stored, directly or through Identity and Cast, else None."""
        casts: list[NodeProto] = []
        while name not in self.stored:
            node = self.producer.get(name)
            if node is None or node.op_type not in ("Constant", "Identity", "Cast"):
                return None
            if node.op_type == "Constant" and not node.attribute:
                return None
            if node.op_type == "Constant":
                value = np.asarray(onnx.helper.get_attribute_value(node.attribute[0]))
                break
            casts += [node] if node.op_type == "Cast" else []
            name = node.input[0]
        else:
            value = numpy_helper.to_array(self.stored[name])
        for node in reversed(casts):
            value = cast(node)(value)
        return value

    def store(self, name: str, values: Array) -> None:
        """Write `values` to the stored tensor `name`, an initializer or a Constant, of the same dtype and shape."""
        tensor = self.stored[name]
        changed = numpy_helper.from_array(np.ascontiguousarray(values), tensor.name)
        if (changed.data_type, list(changed.dims)) != (tensor.data_type, list(tensor.dims)):
            raise SparsityError(
                f"{name}: cannot store {values.dtype}{list(values.shape)} in place of the model's tensor"
            )
        tensor.CopyFrom(changed)

    def is_constant(self, name: str) -> bool:
        """Whether the tensor `name` depends on stored tensors only, through any nodes."""
        if name not in self._constant:
            self._constant[name] = self._follows(name)
        return self._constant[name]

    def _follows(self, name: str) -> bool:
        todo, seen = [name], set[str]()
        while todo:
            at = todo.pop()
            if not at or at in seen or at in self.stored:
                continue
            seen.add(at)
            if at not in self.producer:
                return False
            todo.extend(self.producer[at].input)
        return True


def cast(node: NodeProto) -> Callable[[Array], Array]:
    """Return the NumPy function that the Cast node `node` computes."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to"))

    def to_dtype(values: Array) -> Array:
        return values.astype(dtype)

    return to_dtype
