"""Which layers of a detector run in INT8, and why the others stay float."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from edgesparse.errors import ModelError, SparsityError
from edgesparse.model.layers import behind_selection, layer_name, layer_nodes, require_layers
from edgesparse.model.weights import LAYERS, Weight, weight_of
from edgesparse.model.wiring import Wiring, reads
from edgesparse.sparsity import mask
from edgesparse.sparsity.inspect import why_not

COMMUTE = frozenset(
    """MaxPool GlobalMaxPool Resize Upsample Slice Split Reshape Flatten Transpose Squeeze Unsqueeze Identity Dropout
    DepthToSpace SpaceToDepth""".split()  # noqa: SIM905
)
"""Operators whose outputs are within the range of their inputs, and mostly on the same grid."""
SIZES = ("Shape", "Size", "NonZero")
HEAD = "computes the model's output: a rounded box or score would be final"
_NEEDS_FP32 = "quantize the FP32 export; the build converts the rest to FP16"
SELECTED = "follows {}: computes the few selected rows (a decoder's attention), too sensitive to rounding"
DECODES = "decodes boxes (after a Softmax): too few products to gain, too sensitive to rounding"


@dataclass(frozen=True)
class Kernel:
    """A layer that runs in INT8 and its weight."""

    node: NodeProto
    weight: Weight
    at: int
    """Position of the weight among the node's inputs, 0 or 1; the activation is at the other."""

    @property
    def reads(self) -> str:
        return str(self.node.input[1 - self.at])


def int8_layers(model: ModelProto, wiring: Wiring, keep: Collection[str]) -> tuple[list[Kernel], dict[str, str]]:
    """Return the layers that run in INT8, in graph order, and for each other layer, by name, why it stays float.

    Raises ModelError if `model` already has Q/DQ, is FP16 or has no layer that can be INT8, or if a name in `keep`
    matches no layer.
    """
    refuse_unfit(model)
    require_layers(keep, wiring)
    selected = {name: SELECTED.format(cause) for name, cause in behind_selection(wiring).items()}
    heads = selected | _heads(wiring)
    kernels: list[Kernel] = []
    float_because: dict[str, str] = {}
    for node in layer_nodes(wiring):
        kernel = _kernel(wiring, node, heads, keep)
        if isinstance(kernel, Kernel):
            kernels.append(kernel)
        else:
            float_because[layer_name(node)] = kernel
    if not kernels:
        why = next((f": {name} {why}" for name, why in float_because.items()), "")
        raise ModelError(f"none of the model's {len(float_because)} layers can be INT8{why}")
    return kernels, float_because


def refuse_unfit(model: ModelProto) -> None:
    """Raise ModelError, with the remedy, if `model` is already quantized or not in FP32."""
    count = sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)
    if count:
        raise ModelError(
            f"the model already has {count} Q/DQ operators: build it unchanged, or quantize the float model it "
            "was made from"
        )
    others = [n.op_type for n in model.graph.node if n.op_type.startswith("QLinear") or n.op_type.endswith("Integer")]
    if others:
        raise ModelError(
            f"the model is quantized in the operator form ({others[0]}), which TensorRT does not read: "
            "quantize the float model it was made from"
        )
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        kind = value.type.tensor_type.elem_type
        if value.name not in stored and kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
            raise ModelError(f"the model takes {TensorProto.DataType.Name(kind)}: {_NEEDS_FP32}")


def runs_sparse(wiring: Wiring, kernel: Kernel) -> bool:
    """Whether the layer's weights are 2:4 and TensorRT may run a sparse kernel on them."""
    weight = kernel.weight
    if why_not(wiring, kernel.node, weight) is not None:
        return False
    return mask.violations(weight.values != 0, weight.axis)[0] == 0


def _kernel(wiring: Wiring, node: NodeProto, heads: dict[str, str], keep: Collection[str]) -> Kernel | str:
    """Return the layer as an INT8 kernel, or why it stays float."""
    name = layer_name(node)
    if name in keep:
        return "kept in float, as requested"
    if node.output[0] in heads:
        return heads[node.output[0]]
    at = 1 if node.op_type in ("Conv", "ConvTranspose") or wiring.is_constant(node.input[1]) else 0
    if not wiring.is_constant(node.input[at]):
        return "multiplies two activations"
    try:
        weight = weight_of(wiring, node)
    except SparsityError as error:
        return str(error).replace("2:4 needs", "INT8 needs")
    if weight.values.dtype != np.float32:
        raise ModelError(f"the weights of {name} are {weight.values.dtype}: {_NEEDS_FP32}")
    return Kernel(node, weight, at)


def _heads(wiring: Wiring) -> dict[str, str]:
    """Return why layers near the outputs stay float: no other layer is in between, or they decode."""
    reasons: dict[str, str] = {}
    todo, seen = list(wiring.outputs), set[str]()
    while todo:
        name = todo.pop()
        node = wiring.producer.get(name)
        if name in seen or node is None or node.op_type in SIZES:
            continue
        seen.add(name)
        if node.op_type in LAYERS:
            decodes = _behind_softmax(wiring, node)
            reasons[node.output[0]] = DECODES if decodes else HEAD
            if not decodes and any(map(wiring.is_constant, node.input[:2])):
                continue
        todo.extend(reads(node))
    return reasons


def _behind_softmax(wiring: Wiring, node: NodeProto) -> bool:
    """Whether `node` reads a Softmax through data movement only: the expected value of Distribution Focal Loss."""
    at = wiring.producer.get(node.input[0])
    while at is not None and at.op_type in COMMUTE:
        at = wiring.producer.get(at.input[0])
    return at is not None and at.op_type == "Softmax"
