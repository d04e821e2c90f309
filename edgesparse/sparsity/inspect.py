"""What of a model is 2:4 sparse, what could be, and in words why the rest cannot.

A layer is a convolution, a transposed convolution, a Gemm or a MatMul. Eligible means that TensorRT may consider a
sparse kernel for it; whether that kernel is faster only a measurement on the device says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.errors import SparsityError
from edgesparse.model.layers import NOT_FINITE, RELU, SMOOTH, layer_name, layer_nodes, multiplies, sharers
from edgesparse.model.load import Shape
from edgesparse.model.shapes import shapes
from edgesparse.model.weights import LAYERS, Weight, weight_of
from edgesparse.model.wiring import Wiring, attribute
from edgesparse.sparsity import mask

WIDE = 256
"""NVIDIA's TensorRT engineers: sparse kernels begin to win where input and output channels are at least about 256."""


@dataclass(frozen=True)
class Layer:
    """One layer that multiplies. `shape` is its weights', as it reads them (None where it has none of its own).

    `macs` are multiply-accumulates for one run (None where shapes are open), `bytes` those of the stored weights,
    `groups` the groups of four along input channels and `violations` those with more than two non-zero weights.
    `reason` says why TensorRT cannot use 2:4 here (None: it may), `doubts` why it may not pick it all the same.
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    dtype: str | None
    macs: int | None
    bytes: int
    zeros: int
    groups: int
    violations: int
    reason: str | None
    doubts: tuple[str, ...] = ()

    @property
    def eligible(self) -> bool:
        return self.reason is None

    @property
    def sparse(self) -> bool:
        """Whether every group of four has two zeros."""
        return self.groups > 0 and self.violations == 0

    @property
    def zero_share(self) -> float:
        """Share of the weights that are nought, 0 to 1."""
        return self.zeros / prod(self.shape) if self.shape else 0.0

    @property
    def state(self) -> str:
        """In one word: `sparse` is 2:4 and eligible, `dense` is eligible and not yet 2:4, else `ineligible`."""
        if self.reason is not None:
            return "ineligible"
        return "sparse" if self.sparse else "dense"


@dataclass(frozen=True)
class Inspection:
    """Every layer of a model, in the graph's order."""

    layers: tuple[Layer, ...]

    @property
    def eligible(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.eligible)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one run, or None where a layer's are unknown."""
        counts = [layer.macs for layer in self.layers]
        return None if None in counts else sum(n for n in counts if n)

    def share(self, state: str) -> float:
        """Share of the multiply-accumulates that are known which lies in layers of this `state`, 0 to 1."""
        total = sum(layer.macs or 0 for layer in self.layers)
        return sum(layer.macs or 0 for layer in self.layers if layer.state == state) / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: totals, then each layer with its state."""
        layers = [asdict(layer) | {"state": layer.state, "sparse": layer.sparse} for layer in self.layers]
        states = {state: round(self.share(state), 4) for state in ("sparse", "dense", "ineligible")}
        return {"macs": self.macs, "share_of_macs": states, "layers": layers}


def inspect(model: ModelProto, inputs: Mapping[str, Sequence[int]] | None = None) -> Inspection:
    """Look at every layer of `model`; `inputs` fixes open input shapes by name, so that its MACs are known.

    Raises ModelError where `inputs` does not fit the model.
    """
    known = shapes(model, inputs)
    wiring = Wiring(model.graph)
    return Inspection(tuple(_layer(wiring, node, known) for node in layer_nodes(wiring)))


def why_not(wiring: Wiring, node: NodeProto, weight: Weight) -> str | None:
    """Why TensorRT cannot use 2:4 in this layer, in words; None when it can."""
    if node.op_type == "ConvTranspose":
        return "transposed convolution: TensorRT has no sparse kernel for it"
    if not np.isfinite(weight.values).all():
        return NOT_FINITE
    if weight.quantised and weight.zero.any():
        return "weights are quantised with a zero point other than 0: TensorRT needs symmetric weights"
    if node.op_type != "Conv" and min(weight.outputs_inputs) == 1:
        return "a product with a vector: TensorRT has no sparse kernel for it"
    group = attribute(node, "group", 1) if node.op_type == "Conv" else 1
    return mask.ineligible(weight.outputs_inputs, group) or _conflict(wiring, node, weight)


def _conflict(wiring: Wiring, node: NodeProto, weight: Weight) -> str | None:
    """Why weights that several nodes read cannot be 2:4 for all of them; None when they can."""
    own = None
    for other in sharers(wiring, node, weight):
        if other.op_type not in LAYERS:
            return f"shares its weights with a {other.op_type}, whose results 2:4 would change"
        theirs = weight_of(wiring, other)
        own = weight.in_storage(mask.mask_2to4(weight.values, weight.axis)) if own is None else own
        same = theirs.values.size == weight.values.size and theirs.values.shape[theirs.axis] % mask.GROUP == 0
        if not same or (own != theirs.in_storage(mask.mask_2to4(theirs.values, theirs.axis))).any():
            return f"shares its weights with {layer_name(other)}, which reads them along another axis"
    return None


def _layer(wiring: Wiring, node: NodeProto, known: Mapping[str, Shape]) -> Layer:
    name, macs = layer_name(node), multiplies(node, known)
    try:
        weight = weight_of(wiring, node)
    except SparsityError as error:
        return Layer(name, node.op_type, None, None, macs, 0, 0, 0, 0, str(error))
    nonzero = weight.values != 0
    reason = why_not(wiring, node, weight)
    missed, groups = 0, 0
    if node.op_type != "ConvTranspose" and weight.values.shape[weight.axis] % mask.GROUP == 0:
        missed, groups = mask.violations(nonzero, weight.axis)
    return Layer(
        name=name,
        op=node.op_type,
        shape=weight.values.shape,
        dtype=str(weight.stored.dtype),
        macs=macs,
        bytes=weight.stored.nbytes,
        zeros=int(nonzero.size - np.count_nonzero(nonzero)),
        groups=groups,
        violations=missed,
        reason=reason,
        doubts=tuple(_doubts(wiring, node, weight)) if reason is None else (),
    )


def _doubts(wiring: Wiring, node: NodeProto, weight: Weight) -> Iterator[str]:
    """What speaks against a sparse kernel being picked, though it may be considered."""
    outputs, inputs = weight.outputs_inputs
    if min(inputs * prod(weight.values.shape[2:]), outputs) < WIDE:
        yield f"{inputs} input, {outputs} output channels: sparse kernels seldom win below about {WIDE}"
    after = _followers(wiring, node)
    dequantised = any(wiring.producer.get(i, node).op_type == "DequantizeLinear" for i in node.input[:1])
    if dequantised and weight.quantised:
        after -= {"QuantizeLinear"}
        blocks = "a Q must follow the layer (and its ReLU) directly"
    elif any(other.op_type == "QuantizeLinear" for other in wiring.graph.node):
        yield "INT8: this layer stays float in this model, whose other layers have Q/DQ"
        return
    else:
        after &= SMOOTH
        blocks = "with ReLU they could be picked"
    if after:
        yield f"INT8: {', '.join(sorted(after))} follows, and sparse INT8 kernels write INT8 only: {blocks}"


def _followers(wiring: Wiring, node: NodeProto) -> set[str]:
    """What reads the layer's output, behind its ReLU where it has one; SiLU is named as that."""
    out = node.output[0]
    while len(wiring.consumers[out]) == 1 and wiring.consumers[out][0].op_type in RELU and out not in wiring.outputs:
        out = wiring.consumers[out][0].output[0]
    after = {consumer.op_type for consumer in wiring.consumers[out]}
    if after >= {"Sigmoid", "Mul"} and len(after) == 2:
        after = {"SiLU"}
    return after | ({"the model's output"} if out in wiring.outputs else set())
