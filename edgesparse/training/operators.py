"""ONNX operators in PyTorch: those between a detector's image and its last convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from onnx import NodeProto
from torch import Tensor
from torch.nn import functional

from edgesparse.errors import ModelError
from edgesparse.model.layers import layer_name
from edgesparse.model.wiring import Array, attribute

Constants = Sequence[Array | None]
Step = Callable[..., Any]


@dataclass(frozen=True)
class ConvGeometry:
    """Strides, pads and dilations of a Conv over images."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int

    @classmethod
    def of(cls, node: NodeProto) -> ConvGeometry:
        """Read a Conv's attributes. Raises ModelError if its padding depends on the input's size."""
        if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise ModelError(f"Conv {layer_name(node)} has auto_pad: export it with explicit pads")
        top, left, bottom, right = attribute(node, "pads", [0] * 4)
        two = [1, 1]
        return cls(
            tuple(attribute(node, "strides", two)),
            (left, right, top, bottom),
            tuple(attribute(node, "dilations", two)),
            attribute(node, "group", 1),
        )

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        left, right, top, bottom = self.pads
        if (left, top) != (right, bottom):
            x, left, top = functional.pad(x, self.pads), 0, 0
        weight = weight.to(x.dtype) if x.dtype == torch.float32 else weight
        return functional.conv2d(x, weight, bias, self.strides, (top, left), self.dilations, self.group)


def _pointwise(function: Callable[..., Tensor]) -> Callable[[NodeProto, Constants], Step]:
    """Elementwise operators, whose inputs are tensors or constants. These are copied to a device once."""

    def make(node: NodeProto, constants: Constants) -> Step:
        fixed = [None if c is None else cache(torch.from_numpy(c.copy()).to) for c in constants]

        def run(*inputs: Tensor | None) -> Tensor:
            some = next(x for x in inputs if x is not None)
            values = [x if f is None else f(some.device, some.dtype) for x, f in zip(inputs, fixed, strict=True)]
            return function(*values)

        return run

    return make


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[NodeProto, Constants], Step]:
    return lambda node, constants: lambda x, *_: function(x)


def _leaky(node: NodeProto, constants: Constants) -> Step:
    slope = attribute(node, "alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)


def _hard_sigmoid(node: NodeProto, constants: Constants) -> Step:
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _clip(node: NodeProto, constants: Constants) -> Step:
    low, high = (c.item() if c is not None else None for c in [*constants, None, None][1:3])
    low, high = attribute(node, "min", low), attribute(node, "max", high)
    return lambda x, *_: x.clamp(low, high)


def _concat(node: NodeProto, constants: Constants) -> Step:
    if any(c is not None for c in constants):
        raise ModelError(f"Concat {layer_name(node)} joins a constant: it cannot be trained")
    axis = attribute(node, "axis")
    return lambda *parts: torch.cat(parts, axis)


def _split(node: NodeProto, constants: Constants) -> Step:
    axis, count = attribute(node, "axis", 0), len(node.output)
    sizes = constants[1].tolist() if len(constants) > 1 and constants[1] is not None else attribute(node, "split")

    def run(x: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(torch.split(x, sizes or -(-x.shape[axis] // count), axis))

    return run


def _slice(node: NodeProto, constants: Constants) -> Step:
    if len(constants) == 1:  # opset 9: attributes
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        axes, steps = attribute(node, "axes", list(range(len(starts)))), [1] * len(starts)
    else:
        values = [c.tolist() if c is not None else None for c in [*constants[1:], None, None, None][:4]]
        starts, ends = values[0], values[1]
        if starts is None or ends is None:
            raise ModelError(f"Slice {layer_name(node)} has computed bounds: fold constants first")
        axes, steps = values[2] or list(range(len(starts))), values[3] or [1] * len(starts)
    if any(step < 1 for step in steps):
        raise ModelError(f"Slice {layer_name(node)} goes backwards: PyTorch cannot do that")
    bounds = {axis: slice(start, end, step) for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)}

    def run(x: Tensor, *_: Tensor | None) -> Tensor:
        places = {axis % x.ndim: part for axis, part in bounds.items()}
        return x[tuple(places.get(axis, slice(None)) for axis in range(x.ndim))]

    return run


def _gather(node: NodeProto, constants: Constants) -> Step:
    axis, index = attribute(node, "axis", 0), constants[1]
    if index is None:
        raise ModelError(f"Gather {layer_name(node)} has a computed index: it cannot be trained")
    number = torch.from_numpy(index.copy()).long()
    copy = cache(number.to)

    def run(x: Tensor, *_: Tensor | None) -> Tensor:
        return x.select(axis, int(number)) if number.ndim == 0 else x.index_select(axis, copy(x.device))

    return run


def _reshape(node: NodeProto, constants: Constants) -> Step:
    if constants[1] is None:
        raise ModelError(f"Reshape {layer_name(node)} has a computed shape: fold constants first")
    shape = constants[1].tolist()

    def run(x: Tensor, *_: Tensor | None) -> Tensor:
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
        if len(sizes) > 1 and -1 not in sizes[1:]:
            sizes[0] = -1  # the batch size of the training, not the file's
        return x.reshape(sizes)

    return run


def _transpose(node: NodeProto, constants: Constants) -> Step:
    order = attribute(node, "perm")
    return lambda x: x.permute(order)


def _pool(function: Callable[..., Tensor], empty: float) -> Callable[[NodeProto, Constants], Step]:
    def make(node: NodeProto, constants: Constants) -> Step:
        kernel, strides = attribute(node, "kernel_shape"), attribute(node, "strides", [1, 1])
        top, left, bottom, right = attribute(node, "pads", [0] * 4)
        outside = empty != 0 or bool(attribute(node, "count_include_pad", 0)) or not any((top, left, bottom, right))
        if not outside or attribute(node, "ceil_mode", 0) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            raise ModelError(f"{node.op_type} {layer_name(node)} pads in a way that cannot be trained")
        return lambda x: function(functional.pad(x, (left, right, top, bottom), value=empty), kernel, strides)

    return make


def _resize(node: NodeProto, constants: Constants) -> Step:
    mode = attribute(node, "mode", b"nearest").decode()
    scales = constants[-1] if node.op_type == "Upsample" else constants[2] if len(constants) > 2 else None
    sizes = constants[3] if len(constants) > 3 else None
    corners = attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"align_corners"
    names = {"nearest": "nearest", "linear": "bilinear"}
    if mode not in names or (sizes is None and (scales is None or not scales.size)):
        raise ModelError(f"{node.op_type} {layer_name(node)} has no counterpart in PyTorch: it cannot be trained")
    extra: dict[str, Any] = {} if mode == "nearest" else {"mode": "bilinear", "align_corners": corners}

    def run(x: Tensor, *_: Tensor | None) -> Tensor:
        if sizes is not None:
            target = [int(n) for n in sizes[2:]]
        else:
            assert scales is not None
            target = [int(n * s) for n, s in zip(x.shape[2:], scales[2:].tolist(), strict=True)]
        return functional.interpolate(x, target, **extra)

    return run


def _pad(node: NodeProto, constants: Constants) -> Step:
    pads = constants[1].tolist() if len(constants) > 1 and constants[1] is not None else attribute(node, "pads")
    if pads is None or attribute(node, "mode", b"constant") != b"constant":
        raise ModelError(f"Pad {layer_name(node)} has no counterpart in PyTorch: it cannot be trained")
    value = constants[2].item() if len(constants) > 2 and constants[2] is not None else attribute(node, "value", 0.0)
    half = len(pads) // 2
    both = [n for axis in reversed(range(half)) for n in (pads[axis], pads[half + axis])]
    return lambda x, *_: functional.pad(x, both, value=value)


def _space_to_depth(node: NodeProto, constants: Constants) -> Step:
    size = attribute(node, "blocksize")

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, channels, height // size, size, width // size, size)
        return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // size, width // size)

    return run


def _depth_to_space(node: NodeProto, constants: Constants) -> Step:
    size, blocks_first = attribute(node, "blocksize"), attribute(node, "mode", b"DCR") == b"DCR"

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if blocks_first:  # block, then channel, where pixel_shuffle has channel, then block
            x = x.reshape(batch, size * size, -1, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return functional.pixel_shuffle(x, size)

    return run


def _softmax(node: NodeProto, constants: Constants) -> Step:
    axis = attribute(node, "axis", -1)
    return lambda x: torch.softmax(x, axis)


OPERATORS: dict[str, Callable[[NodeProto, Constants], Step]] = {
    "Add": _pointwise(torch.add),
    "Sub": _pointwise(torch.sub),
    "Mul": _pointwise(torch.mul),
    "Div": _pointwise(torch.div),
    "Relu": _unary(torch.relu),
    "Sigmoid": _unary(torch.sigmoid),
    "Tanh": _unary(torch.tanh),
    "Exp": _unary(torch.exp),
    "Softplus": _unary(functional.softplus),
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(lambda x: x),
    "GlobalAveragePool": _unary(lambda x: x.mean((2, 3), keepdim=True)),
    "LeakyRelu": _leaky,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "SpaceToDepth": _space_to_depth,
    "DepthToSpace": _depth_to_space,
    "MaxPool": _pool(functional.max_pool2d, -torch.inf),
    "AveragePool": _pool(functional.avg_pool2d, 0.0),
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Softmax": _softmax,
}
