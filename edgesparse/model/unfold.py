"""A layer as one matrix product: each position's inputs as a row x, its outputs as a row y, with y = W x + b."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from edgesparse.errors import SparsityError
from edgesparse.model.layers import layer_name, sharers
from edgesparse.model.weights import Weight, weight_of
from edgesparse.model.wiring import Array, Wiring, attribute

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """The matrix product that `node`, a Conv, a Gemm or a MatMul, computes with `weight`.

    `left`: whether the weights are the left factor. `parts`: the number of groups of a convolution.
    """

    node: NodeProto
    weight: Weight
    left: bool
    parts: int

    @property
    def reads(self) -> str:
        """The tensor that is multiplied with the weights."""
        return self.node.input[1 if self.left else 0]

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """W, [outputs, inputs of one part x kernel positions]."""
        return self.as_matrix(self.weight.values.astype(np.float64))

    def as_matrix(self, values: Array) -> Array:
        """Convert `values`, one per weight in the layer's own layout, to the layout of W."""
        return (values.T if self.weight.axis == 0 else values).reshape(self.weight.outputs_inputs[0], -1)

    @property
    def groups(self) -> npt.NDArray[np.intp]:
        """[n, 4]: the columns of W of each group of four input channels at one kernel position."""
        inputs = self.weight.outputs_inputs[1]
        columns = np.arange(self.matrix.shape[1]).reshape(inputs // 4, 4, -1)
        groups: npt.NDArray[np.intp] = columns.transpose(0, 2, 1).reshape(-1, 4)
        return groups

    def stored(self, matrix: npt.NDArray[np.float64]) -> Array:
        """Convert `matrix`, in the layout of W, to that in the model."""
        out, inp = self.weight.outputs_inputs
        shape = (inp, out) if self.weight.axis == 0 else self.weight.values.shape
        values = (matrix.T if self.weight.axis == 0 else matrix).reshape(shape)
        return self.weight.in_storage(values).astype(self.weight.stored.dtype)

    def inputs(self, x: Array) -> Floats:
        """The factors of W, [positions, inputs x kernel positions], from one batch of the tensor `reads`."""
        x = x.astype(np.float32, copy=False)
        if self.node.op_type == "Conv":
            return _patches(x, self.node, self.weight.values.shape[2:])
        transposed = self.left != bool(attribute(self.node, "transB" if self.left else "transA", 0))
        return (np.swapaxes(x, -1, -2) if transposed else x).reshape(-1, x.shape[-2 if transposed else -1])

    def outputs(self, y: Array) -> Floats:
        """The targets, [positions, outputs], from one batch of the node's output, in the same order as `inputs`."""
        y = y.astype(np.float32, copy=False)
        y = np.moveaxis(y, 1, -1) if self.node.op_type == "Conv" else np.swapaxes(y, -1, -2) if self.left else y
        return y.reshape(-1, y.shape[-1])

    @property
    def scale(self) -> float:
        """y = scale * W x + b: Gemm's alpha."""
        return float(attribute(self.node, "alpha", 1.0)) if self.node.op_type == "Gemm" else 1.0


def product(wiring: Wiring, node: NodeProto) -> Product:
    """Return how `node` multiplies with its weights. Raises SparsityError, with the reason, if no refit is possible."""
    if node.op_type == "ConvTranspose":
        raise SparsityError("transposed convolution: left unchanged")
    weight = weight_of(wiring, node)
    others = sharers(wiring, node, weight)
    if others:
        raise SparsityError(
            f"shares its weights with {layer_name(others[0])}, and a refit is for one layer's inputs: "
            "export with separate weights, or name the layers to prune without these"
        )
    if any(step.node.op_type in ("QuantizeLinear", "DequantizeLinear") for step in weight.steps):
        raise SparsityError("weights are quantized: prune the float model, then quantize")
    left = node.op_type != "Conv" and not wiring.is_constant(node.input[1])
    return Product(node, weight, left, attribute(node, "group", 1) if node.op_type == "Conv" else 1)


def _patches(x: Floats, node: NodeProto, kernel: Sequence[int]) -> Floats:
    """Return the receptive field of each output of a convolution, [positions, channels x kernel positions]."""
    strides = attribute(node, "strides", [1] * len(kernel))
    dilations = attribute(node, "dilations", [1] * len(kernel))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], reach, strides)
    x = np.pad(x, [(0, 0), (0, 0), *pads]) if np.any(pads) else x
    view: Any = np.lib.stride_tricks.sliding_window_view  # older releases of NumPy type it for one axis only
    windows = view(x, reach, tuple(range(2, x.ndim)))
    every = [slice(None, None, n) for n in (1, 1, *strides, *dilations)]
    # columns first, so that whole rows are copied, and nothing at all for a 1x1 kernel
    fields = np.moveaxis(windows[tuple(every)], [1, *range(-len(kernel), 0)], range(len(kernel) + 1))
    columns: Floats = fields.reshape(x.shape[1] * int(np.prod(kernel)), -1)
    return columns.T


def _pads(node: NodeProto, size: Sequence[int], reach: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial axis (ONNX Conv: pads, auto_pad)."""
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        pads = attribute(node, "pads", [0] * 2 * len(size)) if auto == "NOTSET" else [0] * 2 * len(size)
        return list(zip(pads[: len(size)], pads[len(size) :], strict=True))
    total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, strides, reach, strict=True)]
    return [(t // 2, t - t // 2) if auto == "SAME_UPPER" else (t - t // 2, t // 2) for t in total]
