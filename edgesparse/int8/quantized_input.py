"""The type in which an engine may take the image: INT8 if the graph quantizes it first, without that step."""

from __future__ import annotations

from typing import Literal

import onnx
from onnx import TensorProto

from edgesparse.model.load import info
from edgesparse.model.wiring import Wiring


def image_type(model: onnx.ModelProto) -> tuple[Literal["float16", "int8"], float] | None:
    """The lowest type in which an engine may take an FP32 image that is the graph's only input, and its scale.

    INT8 if all that the graph does with the image is to quantize it, with one scale and a zero point of 0; FP16 if it
    does not quantize it; otherwise None.
    """
    described, wiring = info(model), Wiring(model.graph)
    value = next(value for value in model.graph.input if value.name == described.image)
    if len(described.inputs) != 1 or value.type.tensor_type.elem_type != TensorProto.FLOAT:
        return None
    readers = wiring.consumers[described.image]
    quantizers = [node for node in readers if node.op_type == "QuantizeLinear"]
    if not quantizers:
        return "float16", 1.0
    scales = {_scale(wiring, node) for node in readers}
    kept = {described.image, *(node.output[0] for node in quantizers)} & wiring.outputs
    scale = scales.pop()
    return None if scales or scale is None or kept else ("int8", scale)


def without_quantizer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph that quantizes its image (`image_type`): its input is the quantized image."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph, image = changed.graph, info(model).image
    outputs = {node.output[0] for node in graph.node if image in node.input}
    kept = [node for node in graph.node if image not in node.input]
    for node in kept:
        node.input[:] = [image if name in outputs else name for name in node.input]
    described = [value for value in graph.value_info if value.name not in outputs]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.value_info.extend(described)
    next(value for value in graph.input if value.name == image).type.tensor_type.elem_type = TensorProto.INT8
    return changed


def _scale(wiring: Wiring, node: onnx.NodeProto) -> float | None:
    if node.op_type != "QuantizeLinear" or len(node.input) != 3:
        return None
    scale, zero = wiring.constant(node.input[1]), wiring.constant(node.input[2])
    if scale is None or zero is None or scale.size != 1 or zero.dtype != "int8" or zero.any():
        return None
    return float(scale.reshape(()))
