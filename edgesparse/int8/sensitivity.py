"""Which layers INT8 costs most: how much each one alone, rounded, changes what the network puts out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx import ModelProto

from edgesparse.int8.layers import int8_layers
from edgesparse.model.layers import layer_name, multiplies
from edgesparse.model.outputs import Outputs
from edgesparse.model.shapes import shapes
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress


@dataclass(frozen=True)
class Sensitivity:
    """`change`: what this layer alone in INT8 does to the outputs, as a share of their variance."""

    name: str
    macs: int
    change: float


def sensitivities(
    model: ModelProto, quantised: ModelProto, keep: Collection[str], outputs: Outputs, progress: Progress
) -> list[Sensitivity]:
    """The INT8 layers of `model`, those first whose INT8 costs most for the multiply-accumulates that it speeds up.

    `quantised` is what `quantize` made of `model` with `keep`; `outputs` tells the change.
    """
    kernels, _ = int8_layers(model, Wiring(model.graph), keep)
    known, found = shapes(model), []
    for done, kernel in enumerate(kernels):
        progress("measuring sensitivity", done, len(kernels))
        change = outputs.change(_alone(quantised, kernel.node.output[0]))
        found.append(Sensitivity(layer_name(kernel.node), multiplies(kernel.node, known) or 0, change))
    return sorted(found, key=lambda layer: layer.change / max(layer.macs, 1), reverse=True)


def _alone(quantised: ModelProto, out: str) -> ModelProto:
    """`quantised` with every Q/DQ pair bypassed but those that the layer which makes `out` reads through."""
    made = ModelProto()
    made.CopyFrom(quantised)
    wiring = Wiring(made.graph)
    behind = {
        node.output[0]: wiring.producer[node.input[0]].input[0]
        for node in made.graph.node
        if node.op_type == "DequantizeLinear"
    }
    for node in made.graph.node:
        if node.op_type != "DequantizeLinear" and node.output[0] != out:
            node.input[:] = [behind.get(name, name) for name in node.input]
    return made
