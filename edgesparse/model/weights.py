"""Where a layer's weights are stored, and how the layer reads them.

Between a stored tensor (an initializer or a Constant node) and the layer that multiplies with it there may be nodes
that only move values (Identity, Reshape, Transpose, Squeeze, Unsqueeze, Flatten) or change their representation (Cast,
QuantizeLinear, DequantizeLinear). `trace` follows them, so that a mask in the layer's own layout can be written back to
the stored tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from edgesparse.errors import SparsityError
from edgesparse.model.wiring import Array, Wiring, attribute, cast

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
DTYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8}


@dataclass(frozen=True)
class WeightStep:
    """One node between the stored tensor and the layer: `forward` maps values to the layer, `back` maps masks back."""

    node: NodeProto
    forward: Callable[[Array], Array]
    back: Callable[[Array], Array] = lambda mask: mask
    zero_point: Array | None = None
    per_channel: bool = False


@dataclass(frozen=True)
class Weight:
    """The weight of one layer.

    `source`: the name of the stored tensor. `stored`: its values in the file. `values`: those that the layer multiplies
    with (dequantized, in the layer's own layout). `steps`: the nodes between. `axis`: that of the input channels (K of
    a matrix product) in `values`, along which the 2:4 pattern runs.
    """

    source: str
    stored: Array
    values: Array
    steps: tuple[WeightStep, ...]
    axis: int

    @property
    def outputs_inputs(self) -> tuple[int, int]:
        """(output channels, input channels), as in a convolution's [K, C, ...]."""
        return self.values.shape[1 - self.axis], self.values.shape[self.axis]

    def in_storage(self, mask: Array) -> Array:
        """`mask`, in the layer's layout, converted to the layout of the stored tensor."""
        for step in reversed(self.steps):
            mask = step.back(mask)
        return mask

    def in_layer(self, stored: Array) -> Array:
        """An array in the layout of the stored tensor, converted to the layer's layout with unchanged values."""
        for step in self.steps:
            if step.node.op_type in MOVES:
                stored = step.forward(stored)
        return stored

    @property
    def rescaled(self) -> bool:
        """Whether scales or zero points vary along the stored tensor, so that it cannot be reordered alone."""
        return any(step.per_channel for step in self.steps)

    @property
    def zero(self) -> Array:
        """The stored value of a zero weight: 0, or the zero point of quantized weights. Broadcasts to `stored`."""
        for i, step in enumerate(self.steps):
            if step.zero_point is not None and step.zero_point.any():
                zero = step.zero_point
                for earlier in reversed(self.steps[:i]):
                    zero = earlier.back(zero)
                return zero
        return np.zeros((), self.stored.dtype)

    @property
    def quantized(self) -> bool:
        """Whether the layer reads its weights through a DequantizeLinear."""
        return any(step.node.op_type == "DequantizeLinear" for step in self.steps)


def weight_of(wiring: Wiring, node: NodeProto) -> Weight:
    """The weight of `node`, a Conv, ConvTranspose, Gemm or MatMul.

    Raises SparsityError, with the reason, if the weight cannot be followed to a stored tensor.
    """
    position = 1 if node.op_type in ("Conv", "ConvTranspose") or wiring.is_constant(node.input[1]) else 0
    if node.op_type == "Conv":
        axis = 1
    elif node.op_type == "Gemm":
        axis = position ^ 1 ^ bool(attribute(node, "transB" if position else "transA", 0))
    else:
        axis = position ^ 1
    weight = trace(wiring, node.input[position], axis)
    if weight.values.ndim < 2 or (node.op_type in ("Gemm", "MatMul") and weight.values.ndim > 2):
        raise SparsityError(f"weights of shape {list(weight.values.shape)}: 2:4 needs one matrix")
    return weight


def trace(wiring: Wiring, name: str, axis: int) -> Weight:
    """Follow the tensor `name`, a layer's weight input, to the stored tensor. Raises SparsityError like `weight_of`."""
    path: list[NodeProto] = []
    at = name
    while at not in wiring.stored:
        if not wiring.is_constant(at):
            raise SparsityError("multiplies two activations: no weights to prune")
        node = wiring.producer[at]
        if node.op_type not in _STEPS or not all(wiring.is_constant(i) for i in node.input):
            raise SparsityError(f"weights are computed by {node.op_type}: fold the model's constants first")
        path.append(node)
        at = node.input[0]
    if wiring.stored[at].data_type not in DTYPES:
        kind = TensorProto.DataType.Name(wiring.stored[at].data_type).lower()
        raise SparsityError(f"weights are {kind}: 2:4 needs FP32, FP16, BF16 or INT8")
    stored = values = numpy_helper.to_array(wiring.stored[at])
    steps = []
    for node in reversed(path):
        parameters = [wiring.constant(i) if i else None for i in node.input[1:]]
        if any(p is None and i for p, i in zip(parameters, node.input[1:], strict=True)):
            raise SparsityError(f"{node.op_type} before the weights has computed parameters: fold constants first")
        steps.append(_STEPS[node.op_type](node, values.shape, [p for p in parameters if p is not None]))
        values = steps[-1].forward(values)
    return Weight(at, stored, values, tuple(steps), axis)


def readers(wiring: Wiring, source: str) -> list[NodeProto]:
    """Return every node that reads the stored tensor `source`, directly or through steps that `trace` follows."""
    nodes, todo = [], [source]
    while todo:
        name = todo.pop()
        for node in wiring.consumers[name]:
            if node.op_type in _STEPS and node.input[0] == name:
                todo.append(node.output[0])
            else:
                nodes.append(node)
    return nodes


def _move(node: NodeProto, shape: tuple[int, ...], parameters: list[Array]) -> WeightStep:
    """A step that changes the shape but neither the values nor their order."""
    target: tuple[int, ...]
    if node.op_type == "Reshape":
        target = tuple(int(n) for n in parameters[0])
        if not attribute(node, "allowzero", 0):
            target = tuple(shape[i] if n == 0 else n for i, n in enumerate(target))
    elif node.op_type == "Flatten":
        axis = attribute(node, "axis", 1) % (len(shape) + 1)
        target = (int(np.prod(shape[:axis], dtype=int)), int(np.prod(shape[axis:], dtype=int)))
    else:
        listed = [int(i) for i in parameters[0]] if parameters else attribute(node, "axes")
        blank = np.empty(shape, np.bool_)
        if node.op_type == "Unsqueeze":
            target = np.expand_dims(blank, tuple(listed)).shape
        else:
            target = np.squeeze(blank, None if listed is None else tuple(listed)).shape
    return WeightStep(node, lambda values: values.reshape(target), lambda mask: mask.reshape(shape))


def _transpose(node: NodeProto, shape: tuple[int, ...], parameters: list[Array]) -> WeightStep:
    order = tuple(attribute(node, "perm") or reversed(range(len(shape))))
    inverse = tuple(int(i) for i in np.argsort(order))
    return WeightStep(node, lambda values: values.transpose(order), lambda mask: mask.transpose(inverse))


def _quantize(node: NodeProto, shape: tuple[int, ...], parameters: list[Array]) -> WeightStep:
    """ONNX QuantizeLinear: saturate(round_half_even(x / scale) + zero_point)."""
    point = parameters[1] if len(parameters) > 1 else np.zeros((), np.uint8)
    scale, point = _along(node, shape, parameters[0]), _along(node, shape, point)
    if not np.issubdtype(point.dtype, np.integer):
        raise SparsityError(f"weights are quantized to {point.dtype}: 2:4 needs FP32, FP16, BF16 or INT8")
    low, high = np.iinfo(point.dtype).min, np.iinfo(point.dtype).max

    def forward(values: Array) -> Array:
        rounded: Array = np.clip(np.rint(values / scale) + point, low, high)
        return rounded.astype(point.dtype)

    return WeightStep(node, forward, per_channel=scale.ndim > 0)


def _dequantize(node: NodeProto, shape: tuple[int, ...], parameters: list[Array]) -> WeightStep:
    """ONNX DequantizeLinear: (x - zero_point) * scale."""
    scale = _along(node, shape, parameters[0])
    point = _along(node, shape, parameters[1]) if len(parameters) > 1 else np.zeros((), np.int8)

    def forward(values: Array) -> Array:
        offset: Array = values.astype(np.int32) - point.astype(np.int32)
        return (offset * scale).astype(scale.dtype)

    return WeightStep(node, forward, zero_point=np.broadcast_to(point, shape), per_channel=scale.ndim > 0)


def _along(node: NodeProto, shape: tuple[int, ...], parameter: Array) -> Array:
    """A scale or zero point, per tensor, per axis or per block, in a shape that broadcasts to `shape`."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis: int = attribute(node, "axis", 1) % len(shape)
    if parameter.ndim == 1:
        return parameter.reshape(tuple(-1 if i == axis else 1 for i in range(len(shape))))
    block: int = attribute(node, "block_size", 0) or -(-shape[axis] // parameter.shape[axis])
    repeated: Array = np.repeat(parameter, block, axis).take(range(shape[axis]), axis)
    return repeated


_STEPS: dict[str, Callable[[NodeProto, tuple[int, ...], list[Array]], WeightStep]] = {
    "Identity": lambda node, shape, parameters: WeightStep(node, lambda values: values),
    "Cast": lambda node, shape, parameters: WeightStep(node, cast(node)),
    "Reshape": _move,
    "Flatten": _move,
    "Squeeze": _move,
    "Unsqueeze": _move,
    "Transpose": _transpose,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
