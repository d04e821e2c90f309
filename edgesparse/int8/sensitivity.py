"""How sensitive the model is to INT8 in each layer: how much that layer alone, rounded, changes the outputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from edgesparse.int8.layers import int8_layers
from edgesparse.model.layers import layer_name, multiplies
from edgesparse.model.outputs import ReferenceOutputs
from edgesparse.model.shapes import shapes
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress

FREE = 0.03
"""Share of the multiply-accumulates in float that costs next to no time."""
NOTICED = 0.01
"""Share of the change below which a layer in float gains less than its two conversions cost."""


@dataclass(frozen=True)
class Sensitivity:
    """`change`: how this layer alone in INT8 changes the outputs, as a share of their variance."""

    name: str
    macs: int
    change: float


def sensitivities(
    model: ModelProto, quantized: ModelProto, keep: Collection[str], outputs: ReferenceOutputs, progress: Progress
) -> list[Sensitivity]:
    """Return the INT8 layers of `model`, starting with those where INT8 costs most per multiply-accumulate.

    `quantized`: the result of `quantize` for `model` with `keep`. `outputs` measures the change.
    """
    kernels, _ = int8_layers(model, Wiring(model.graph), keep)
    known, ranked = shapes(model), []
    for done, kernel in enumerate(kernels):
        progress("measuring sensitivity", done, len(kernels))
        change = outputs.change(_alone(quantized, kernel.node.output[0]))
        ranked.append(Sensitivity(layer_name(kernel.node), multiplies(kernel.node, known) or 0, change))
    return sorted(ranked, key=lambda layer: layer.change / max(layer.macs, 1), reverse=True)


def cheap(ranked: Sequence[Sensitivity]) -> list[str]:
    """Return the layers of `ranked` that each cause at least NOTICED of the change, and have FREE of the work at most
    together.

    The sum stands for the change of all layers together: it predicts it to about a tenth.
    """
    change, left = sum(layer.change for layer in ranked), FREE * sum(layer.macs for layer in ranked)
    names = []
    for layer in ranked:
        if layer.change > NOTICED * change and layer.macs <= left:
            left -= layer.macs
            names.append(layer.name)
    return names


def _alone(quantized: ModelProto, out: str) -> ModelProto:
    """Return `quantized` with all Q/DQ pairs bypassed except those that the layer with output `out` reads."""
    copy = ModelProto()
    copy.CopyFrom(quantized)
    wiring = Wiring(copy.graph)
    behind = {
        node.output[0]: wiring.producer[node.input[0]].input[0]
        for node in copy.graph.node
        if node.op_type == "DequantizeLinear"
    }
    for node in copy.graph.node:
        if node.op_type != "DequantizeLinear" and node.output[0] != out:
            node.input[:] = [behind.get(name, name) for name in node.input]
    return copy
