"""Explicit Q/DQ written into a float detector, in the form that TensorRT 8.5 and later parse.

Symmetric INT8 with zero point 0: one scale per tensor for activations, one per output channel for weights; biases stay
float. Weights remain stored as float, followed by Q and DQ: TensorRT 8's parser does not accept INT8 weights.
`placement` decides where the pairs are inserted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgesparse.errors import CalibrationError, ModelError, SparsityError
from edgesparse.int8.layers import Kernel, runs_sparse
from edgesparse.int8.observe import activations
from edgesparse.int8.placement import Placement, QdqPlan, plan
from edgesparse.int8.qdq import channel_axis, write
from edgesparse.model.layers import NOT_FINITE, layer_name, layer_nodes, multiplies
from edgesparse.model.opset import opset_of, upgraded
from edgesparse.model.shapes import shapes
from edgesparse.model.weights import weight_of
from edgesparse.model.wiring import Array, Wiring

CONVOLUTIONS = ("Conv", "ConvTranspose")
TOP = 127
"""Weights and activations map to -127..127: symmetric, so that zero is exact."""
TINY = float(np.finfo(np.float32).tiny)
"""GPUs flush smaller numbers to zero, and TensorRT refuses a scale of zero."""

Scales = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer: `int8` or float, and `why`. `macs`: None if shapes are unknown."""

    name: str
    op: str
    int8: bool
    why: str
    macs: int | None


@dataclass(frozen=True)
class QuantizeReport:
    """The result of `quantize`. `scales`: of each tensor with a Q/DQ pair. `opset`: (the model's, the result's)."""

    placement: Placement
    layers: tuple[QuantizedLayer, ...]
    scales: Mapping[str, float]
    opset: tuple[int, int]

    @property
    def share(self) -> float:
        """Share of the convolutions' multiply-accumulates that runs in INT8, 0 to 1."""
        convolutions = [layer for layer in self.layers if layer.op in CONVOLUTIONS]
        total = sum(layer.macs or 0 for layer in convolutions)
        return sum(layer.macs or 0 for layer in convolutions if layer.int8) / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {
            "placement": self.placement,
            "share_of_convolution_macs": round(self.share, 4),
            "opset": list(self.opset),
            "layers": [asdict(layer) for layer in self.layers],
            "scales": dict(self.scales),
        }


def quantized_tensors(model: ModelProto, placement: Placement = "fuse", keep: Collection[str] = ()) -> list[str]:
    """Return the tensors that `quantize` needs a scale for, in graph order. Raises what `quantize` raises."""
    return list(plan(model, placement, keep).readers)


def calibrated_tensors(model: ModelProto, keep: Collection[str], table: bool) -> list[str]:
    """Return the tensors that either placement quantizes, and for TensorRT's table all that lead to them.

    What follows them are the head's outputs and the decoding, which lose most in INT8: without a range they stay float.
    """
    names = {name for placement in ("fuse", "sparse") for name in quantized_tensors(model, placement, keep)}
    # which input of an addition is the shortcut depends on which layers are INT8
    names.update(name for node in model.graph.node if node.op_type == "Add" for name in node.input)
    wiring = Wiring(model.graph)
    todo, reached = list(names), set[str]()
    while todo:
        name = todo.pop()
        if name and name not in reached and not wiring.is_constant(name):
            reached.add(name)
            todo.extend(wiring.producer[name].input if table and name in wiring.producer else ())
    return [name for name in activations(model) if name in reached]


def quantize(
    model: ModelProto,
    scales: Mapping[str, float],
    *,
    placement: Placement = "fuse",
    keep: Collection[str] = (),
) -> tuple[ModelProto, QuantizeReport]:
    """Return a copy of `model` with Q/DQ for INT8, in opset 13 or the model's own if that is higher, and a report.

    `scales`: each tensor's scale (its range over 127; see `quantized_tensors`). Tensors that share a scale get the
    largest; a tensor that was always zero (scale 0) gets 1. Layers named in `keep` stay float. The scale of weights is,
    per output channel, their largest magnitude over 127.

    Raises ModelError if the model is already quantized, is FP16, or has no layer to quantize, or a name in `keep`
    matches no layer; CalibrationError if a scale is missing or not finite; SparsityError if 2:4 weights would not stay
    2:4.
    """
    qdq = plan(model, placement, keep)
    shared = shared_scales(qdq, scales)
    weights = {layer_name(kernel.node): weight_scale(kernel) for kernel in qdq.kernels}
    written = upgraded(model)
    write(written, qdq, shared, weights)
    _check_zeros(qdq, written)
    return written, QuantizeReport(placement, _layers(model, qdq), shared, (opset_of(model), opset_of(written)))


def weight_scale(kernel: Kernel) -> Scales:
    """Symmetric scale of the layer's weights: float32 [outputs], or [] where they have one scale.

    Raises ModelError where weights are not finite.
    """
    magnitude, axis = np.abs(kernel.weight.values), channel_axis(kernel)
    if not np.isfinite(magnitude).all():
        raise ModelError(f"{layer_name(kernel.node)}: {NOT_FINITE}")
    others = tuple(i for i in range(magnitude.ndim) if i != axis)
    scale = magnitude.max(axis=others) / TOP
    # any scale above 0 works for a channel of zeros
    return _positive(np.where(scale > 0, scale, scale.max()))


def _positive(scale: Array) -> Scales:
    """Return at least the smallest scale that works on a GPU; 1 for a tensor of zeros."""
    return np.where(scale > 0, np.maximum(scale, TINY), 1).astype(np.float32)


def shared_scales(qdq: QdqPlan, scales: Mapping[str, float]) -> dict[str, float]:
    """Return the scale of each quantized tensor: the largest of all that share it. Raises CalibrationError."""
    largest: defaultdict[str, float] = defaultdict(float)
    for name, group in qdq.scales_of.items():
        if name not in scales:
            raise CalibrationError(f"no scale for the tensor {name}: calibrate this model again, with these options")
        scale = float(np.float32(scales[name]))
        if not np.isfinite(scale) or scale < 0:
            raise CalibrationError(f"the scale of the tensor {name} is {scale}: needed a finite number above 0")
        largest[group] = max(largest[group], scale)
    return {name: float(_positive(np.array(largest[group]))) for name, group in qdq.scales_of.items()}


def _layers(model: ModelProto, qdq: QdqPlan) -> tuple[QuantizedLayer, ...]:
    wiring, known = Wiring(model.graph), shapes(model)
    sparse = {layer_name(kernel.node) for kernel in qdq.kernels if runs_sparse(wiring, kernel)}
    rows = []
    for node in layer_nodes(wiring):
        name = layer_name(node)
        reason = qdq.float_because.get(name)
        why = reason or ("INT8, weights 2:4" if name in sparse else "INT8")
        rows.append(QuantizedLayer(name, node.op_type, reason is None, why, multiplies(node, known)))
    return tuple(rows)


def _check_zeros(qdq: QdqPlan, written: ModelProto) -> None:
    """Raise SparsityError if a zero weight is no longer zero when an engine dequantizes it."""
    wiring = Wiring(written.graph)
    for kernel in qdq.kernels:
        node = wiring.producer.get(kernel.node.output[0])
        if node is None:
            continue  # nothing that leads to an output reads it, so it was not written
        weight = weight_of(wiring, node)
        if (weight.values[kernel.weight.values == 0] != 0).any() or not np.isfinite(weight.values).all():
            raise SparsityError(f"{layer_name(kernel.node)}: zero weights are not zero after rounding to INT8")
