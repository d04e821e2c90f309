"""A layer's bias: where it is added, and how to change it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, numpy_helper

from edgesparse.errors import SparsityError
from edgesparse.model.unfold import Product
from edgesparse.model.wiring import Array, Wiring, attribute


def has_bias(wiring: Wiring, product: Product) -> bool:
    """Whether the layer's outputs can be shifted: always for Conv and Gemm, for MatMul if a constant is added.

    False if the weights are the left factor. Raises SparsityError if a Gemm adds a matrix rather than a bias.
    """
    if product.node.op_type == "MatMul":
        return _addition(wiring, product) is not None
    if product.node.op_type == "Gemm" and len(product.node.input) > 2 and product.node.input[2]:
        added = wiring.constant(product.node.input[2])
        size = product.weight.outputs_inputs[0]
        if product.left or added is None or added.size not in (1, size) or added.shape[-1:] not in ((), (1,), (size,)):
            raise SparsityError("adds a whole matrix, not a bias: leave this layer dense")
    return not product.left


def set_bias(wiring: Wiring, product: Product, bias: npt.NDArray[np.float64]) -> None:
    """Set the layer's bias to `bias` [outputs]; after a MatMul, add it to the constant added there.

    Other readers of the stored bias keep the old one.
    """
    node, place = product.node, 2
    if node.op_type == "MatMul":
        addition = _addition(wiring, product)
        if addition is None:
            return
        node, place, constant = addition
        bias = bias + constant
    elif node.op_type == "Gemm":
        bias = bias / float(attribute(node, "beta", 1.0) or 1.0)
    _write(wiring.graph, node, place, bias.astype(product.weight.values.dtype))


def bias_of(wiring: Wiring, product: Product) -> npt.NDArray[np.float64]:
    """Return the layer's bias [outputs], 0 where it has none."""
    node, size = product.node, product.weight.outputs_inputs[0]
    if node.op_type == "MatMul":
        addition = _addition(wiring, product)
        bias, scale = None if addition is None else addition[2], 1.0
    else:
        bias = _stored(wiring, node.input[2]) if len(node.input) > 2 and node.input[2] else None
        scale = float(attribute(node, "beta", 1.0)) if node.op_type == "Gemm" else 1.0
    values = np.zeros(1) if bias is None else scale * bias.astype(np.float64).reshape(-1)
    return np.broadcast_to(values, (size,))


def _stored(wiring: Wiring, name: str) -> Array | None:
    tensor = next((tensor for tensor in wiring.graph.initializer if tensor.name == name), None)
    return numpy_helper.to_array(tensor) if tensor is not None else wiring.constant(name)


def _write(graph: GraphProto, node: NodeProto, place: int, value: Array) -> None:
    """Store `value` under the node's own name for it and make `node` read it at input `place`."""
    name = f"{node.output[0]}.bias"
    existing = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    existing.CopyFrom(tensor) if existing is not None else graph.initializer.append(tensor)
    while len(node.input) <= place:
        node.input.append("")
    node.input[place] = name


def _addition(wiring: Wiring, product: Product) -> tuple[NodeProto, int, Array] | None:
    """Return the Add after a MatMul that adds a constant per output: the node, which of its inputs, the constant."""
    out, size = product.node.output[0], product.weight.outputs_inputs[0]
    after = wiring.consumers[out]
    if product.left or out in wiring.outputs or len(after) != 1 or after[0].op_type != "Add":
        return None
    place = 1 if after[0].input[0] == out else 0
    added = _stored(wiring, after[0].input[place])
    if added is None or added.size != size or added.shape[-1] != size:
        return None
    return after[0], place, added
