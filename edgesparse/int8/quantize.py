"""Explicit Q/DQ written into a float detector, in the form that every TensorRT from 8.5 on parses.

Symmetric INT8 with zero point 0: one scale a tensor for activations, one an output channel for weights; biases stay
float. Weights stay stored as float with Q and DQ behind them: TensorRT 8's parser takes no INT8 weights. `placement`
decides where the pairs stand.
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
from edgesparse.int8.placement import Placement, Plan, plan
from edgesparse.int8.qdq import channel_axis, write
from edgesparse.model.layers import NOT_FINITE, layer_name, layer_nodes, multiplies
from edgesparse.model.opset import opset_of, upgraded
from edgesparse.model.shapes import shapes
from edgesparse.model.weights import weight_of
from edgesparse.model.wiring import Array, Wiring

CONVOLUTIONS = ("Conv", "ConvTranspose")
TOP = 127
"""Weights and activations lie on -127..127: symmetric, so that nought is exact."""
TINY = float(np.finfo(np.float32).tiny)
"""GPUs flush what is smaller to nought, and TensorRT refuses a scale of nought."""

Scales = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuantisedLayer:
    """One layer: `int8` or float, and `why` in words. `macs` are None where shapes are open."""

    name: str
    op: str
    int8: bool
    why: str
    macs: int | None


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize` did. `scales`: of each tensor that has a Q/DQ pair now. `opset`: (the model's, the result's)."""

    placement: Placement
    layers: tuple[QuantisedLayer, ...]
    scales: Mapping[str, float]
    opset: tuple[int, int]

    @property
    def share(self) -> float:
        """Share of the convolutions' multiply-accumulates that runs in INT8, 0 to 1."""
        convolutions = [layer for layer in self.layers if layer.op in CONVOLUTIONS]
        total = sum(layer.macs or 0 for layer in convolutions)
        return sum(layer.macs or 0 for layer in convolutions if layer.int8) / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "placement": self.placement,
            "share_of_convolution_macs": round(self.share, 4),
            "opset": list(self.opset),
            "layers": [asdict(layer) for layer in self.layers],
            "scales": dict(self.scales),
        }


def quantised_tensors(model: ModelProto, placement: Placement = "fuse", keep: Collection[str] = ()) -> list[str]:
    """The tensors that `quantize` needs a scale for, in the graph's order. Raises as it does."""
    return list(plan(model, placement, keep).readers)


def quantize(
    model: ModelProto,
    scales: Mapping[str, float],
    *,
    placement: Placement = "fuse",
    keep: Collection[str] = (),
) -> tuple[ModelProto, QuantizeReport]:
    """A copy of `model` with Q/DQ for INT8, in opset 13 or the model's own where that is higher; and what was done.

    `scales` gives each tensor's scale (its range over 127; see `quantised_tensors`); tensors that share one get the
    largest, and a tensor that was always nought (scale 0) gets 1. Layers named in `keep` stay float. The scale of
    weights is, for each output channel, their largest magnitude over 127.

    Raises ModelError where the model is quantised already, is FP16, or has no layer to quantise; CalibrationError where
    a scale is missing or not finite, or a name of `keep` fits no layer; SparsityError where 2:4 weights would not stay
    2:4.
    """
    made = plan(model, placement, keep)
    shared = _shared_scales(made, scales)
    weights = {layer_name(kernel.node): weight_scale(kernel) for kernel in made.kernels}
    written = upgraded(model)
    write(written, made, shared, weights)
    _check_zeros(made, written)
    return written, QuantizeReport(placement, _layers(model, made), shared, (opset_of(model), opset_of(written)))


def weight_scale(kernel: Kernel) -> Scales:
    """Symmetric scale of the layer's weights: float32 [outputs], or [] where they have one scale.

    Raises ModelError where weights are not finite.
    """
    magnitude, axis = np.abs(kernel.weight.values), channel_axis(kernel)
    if not np.isfinite(magnitude).all():
        raise ModelError(f"{layer_name(kernel.node)}: {NOT_FINITE}")
    others = tuple(i for i in range(magnitude.ndim) if i != axis)
    scale = magnitude.max(axis=others) / TOP
    # a channel of noughts: any scale above 0 will do
    return _positive(np.where(scale > 0, scale, scale.max()))


def _positive(scale: Array) -> Scales:
    """At least the smallest scale that works on a GPU; 1 where it is nought, since all that it scales is."""
    return np.where(scale > 0, np.maximum(scale, TINY), 1).astype(np.float32)


def _shared_scales(made: Plan, scales: Mapping[str, float]) -> dict[str, float]:
    """The scale of each quantised tensor: the largest of all that share it. Raises CalibrationError."""
    largest: defaultdict[str, float] = defaultdict(float)
    for name, group in made.scales_of.items():
        if name not in scales:
            raise CalibrationError(f"no scale for the tensor {name}: calibrate this model, with these options, again")
        scale = float(np.float32(scales[name]))
        if not np.isfinite(scale) or scale < 0:
            raise CalibrationError(f"the scale of the tensor {name} is {scale}: needed a finite one above 0")
        largest[group] = max(largest[group], scale)
    return {name: float(_positive(np.array(largest[group]))) for name, group in made.scales_of.items()}


def _layers(model: ModelProto, made: Plan) -> tuple[QuantisedLayer, ...]:
    wiring, known = Wiring(model.graph), shapes(model)
    sparse = {layer_name(kernel.node) for kernel in made.kernels if runs_sparse(wiring, kernel)}
    rows = []
    for node in layer_nodes(wiring):
        name = layer_name(node)
        why = made.float_because.get(name)
        said = why or ("INT8, weights 2:4" if name in sparse else "INT8")
        rows.append(QuantisedLayer(name, node.op_type, why is None, said, multiplies(node, known)))
    return tuple(rows)


def _check_zeros(made: Plan, written: ModelProto) -> None:
    """Raise SparsityError where a weight that was nought is no longer, as every engine reads the file."""
    wiring = Wiring(written.graph)
    for kernel in made.kernels:
        found = weight_of(wiring, wiring.producer[kernel.node.output[0]])
        if (found.values[kernel.weight.values == 0] != 0).any() or not np.isfinite(found.values).all():
            raise SparsityError(f"{layer_name(kernel.node)}: weights that were nought are not after rounding to INT8")
