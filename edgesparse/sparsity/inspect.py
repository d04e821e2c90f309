"""Finds which layers of a model are 2:4, which could be, and why the others cannot.

A layer is a convolution, a transposed convolution, a Gemm or a MatMul. Eligible means that TensorRT may consider a
sparse kernel for it; only a measurement on the device shows whether that kernel is faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.errors import SparsityError
from edgesparse.model.layers import NOT_FINITE, RELU, SMOOTH, layer_name, layer_nodes, multiplies, sharers
from edgesparse.model.normalize import nodes_of
from edgesparse.model.shapes import shapes
from edgesparse.model.weights import LAYERS, Weight, weight_of
from edgesparse.model.wiring import Shape, Wiring, attribute
from edgesparse.sparsity import mask

WIDE = 256
"""NVIDIA's TensorRT engineers: sparse kernels begin to win where input and output channels are at least about 256."""


@dataclass(frozen=True)
class InspectedLayer:
    """One layer that multiplies. `shape`: of its weights, as the layer reads them (None: it has no stored weights).

    `macs`: multiply-accumulates per run (None: open shapes). `bytes`: size of the stored weights. `groups`: groups of
    four along the input channels; `violations`: those with more than two non-zero weights. `reason`: why TensorRT
    cannot use 2:4 here (None: it can); `doubts`: why it may still not pick a sparse kernel.
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
        """Whether every group of four has at least two zeros."""
        return self.groups > 0 and self.violations == 0

    @property
    def zero_share(self) -> float:
        """Share of the weights that are zero, 0 to 1."""
        return self.zeros / prod(self.shape) if self.shape else 0.0

    @property
    def state(self) -> str:
        """`sparse` (2:4 and eligible), `dense` (eligible, not 2:4 yet) or `ineligible`."""
        if self.reason is not None:
            return "ineligible"
        return "sparse" if self.sparse else "dense"


@dataclass(frozen=True)
class Inspection:
    """Every layer of a model, in graph order. `assumed`: the assumed shapes of dynamic inputs, by name.

    `unlisted`: how many layers are inside the branches of an If or the body of a Loop, which are not in `layers`.
    """

    layers: tuple[InspectedLayer, ...]
    assumed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unlisted: int = 0

    @property
    def eligible(self) -> tuple[InspectedLayer, ...]:
        return tuple(layer for layer in self.layers if layer.eligible)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates per run, or None if a layer's are unknown."""
        counts = [layer.macs for layer in self.layers]
        return None if None in counts else sum(n for n in counts if n)

    def share(self, state: str) -> float:
        """Share of the known multiply-accumulates in layers of this `state`, 0 to 1."""
        total = sum(layer.macs or 0 for layer in self.layers)
        return sum(layer.macs or 0 for layer in self.layers if layer.state == state) / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values: totals, then each layer and its state; `assumed_shapes` only if any."""
        layers = [asdict(layer) | {"state": layer.state, "sparse": layer.sparse} for layer in self.layers]
        states = {state: round(self.share(state), 4) for state in ("sparse", "dense", "ineligible")}
        assumed = (
            {"assumed_shapes": {name: list(shape) for name, shape in self.assumed.items()}} if self.assumed else {}
        )
        return {"macs": self.macs, "share_of_macs": states, **assumed, "layers": layers}

    @property
    def notes(self) -> list[str]:
        """Return what was assumed or left out, one line each."""
        shapes = {name: "x".join(map(str, shape)) for name, shape in self.assumed.items()}
        lines = [
            f"input {name} has an open shape: assumed {shape}; --shape {name}={shape} sets another"
            for name, shape in shapes.items()
        ]
        if self.unlisted:
            lines.append(f"{self.unlisted} layers inside If or Loop are not listed: they stay as they are")
        return lines


def inspect(model: ModelProto, inputs: Mapping[str, Sequence[int]] | None = None) -> Inspection:
    """Inspect every layer of `model`; `inputs` fixes dynamic input shapes by name, so that MACs are known. Raises
    ModelError if `inputs` does not fit the model.
    """
    known = shapes(model, inputs)
    wiring = Wiring(model.graph)
    layers = tuple(_layer(wiring, node, known) for node in layer_nodes(wiring))
    inside = sum(node.op_type in LAYERS for node in nodes_of(model.graph))
    outside = sum(node.op_type in LAYERS for node in model.graph.node)
    return Inspection(layers, unlisted=inside - outside)


def why_not(wiring: Wiring, node: NodeProto, weight: Weight) -> str | None:
    """Return why TensorRT cannot use 2:4 in this layer, or None if it can."""
    if node.op_type == "ConvTranspose":
        return "transposed convolution: TensorRT has no sparse kernel for it"
    if not np.isfinite(weight.values).all():
        return NOT_FINITE
    if weight.quantized and weight.zero.any():
        return "weights are quantized with a zero point other than 0: TensorRT needs symmetric weights"
    if node.op_type != "Conv" and min(weight.outputs_inputs) == 1:
        return "a product with a vector: TensorRT has no sparse kernel for it"
    group = attribute(node, "group", 1) if node.op_type == "Conv" else 1
    return mask.ineligible(weight.outputs_inputs, group) or _conflict(wiring, node, weight)


def _conflict(wiring: Wiring, node: NodeProto, weight: Weight) -> str | None:
    """Return why weights that several nodes read cannot be 2:4 for all of them, or None if they can."""
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


def _layer(wiring: Wiring, node: NodeProto, known: Mapping[str, Shape]) -> InspectedLayer:
    name, macs = layer_name(node), multiplies(node, known)
    try:
        weight = weight_of(wiring, node)
    except SparsityError as error:
        return InspectedLayer(name, node.op_type, None, None, macs, 0, 0, 0, 0, str(error))
    nonzero = weight.values != 0
    reason = why_not(wiring, node, weight)
    violations, groups = 0, 0
    if node.op_type != "ConvTranspose" and weight.values.shape[weight.axis] % mask.GROUP == 0:
        violations, groups = mask.violations(nonzero, weight.axis)
    return InspectedLayer(
        name=name,
        op=node.op_type,
        shape=weight.values.shape,
        dtype=str(weight.stored.dtype),
        macs=macs,
        bytes=weight.stored.nbytes,
        zeros=int(nonzero.size - np.count_nonzero(nonzero)),
        groups=groups,
        violations=violations,
        reason=reason,
        doubts=tuple(_doubts(wiring, node, weight)) if reason is None else (),
    )


def _doubts(wiring: Wiring, node: NodeProto, weight: Weight) -> Iterator[str]:
    """Return reasons why TensorRT may not pick a sparse kernel, though it may consider one."""
    outputs, inputs = weight.outputs_inputs
    if min(inputs * prod(weight.values.shape[2:]), outputs) < WIDE:
        yield f"{inputs} input, {outputs} output channels: sparse kernels seldom win below about {WIDE}"
    after = _followers(wiring, node)
    dequantized = any(wiring.producer.get(i, node).op_type == "DequantizeLinear" for i in node.input[:1])
    if dequantized and weight.quantized:
        after -= {"QuantizeLinear"}
        remedy = "a Q must follow the layer (and its ReLU) directly"
    elif any(other.op_type == "QuantizeLinear" for other in wiring.graph.node):
        yield "INT8: this layer stays float in this model, whose other layers have Q/DQ"
        return
    else:
        after &= SMOOTH
        remedy = "with ReLU they could be picked"
    if after:
        yield f"INT8: {', '.join(sorted(after))} follows, and sparse INT8 kernels write INT8 only: {remedy}"


def _followers(wiring: Wiring, node: NodeProto) -> set[str]:
    """Return the operators that read the layer's output, or that of its ReLU; Sigmoid and Mul together are SiLU."""
    out = node.output[0]
    while len(wiring.consumers[out]) == 1 and wiring.consumers[out][0].op_type in RELU and out not in wiring.outputs:
        out = wiring.consumers[out][0].output[0]
    after = {consumer.op_type for consumer in wiring.consumers[out]}
    if after >= {"Sigmoid", "Mul"} and len(after) == 2:
        after = {"SiLU"}
    return after | ({"the model's output"} if out in wiring.outputs else set())
