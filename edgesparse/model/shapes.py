"""The shape of every tensor in a model, by ONNX's shape inference, without copying the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from edgesparse.errors import ModelError
from edgesparse.model.infer import infer_shapes
from edgesparse.model.load import info, metadata_size
from edgesparse.model.wiring import Shape

SMALL = 1024
"""Tensors with up to this many values take part in the inference: they may be the target of a Reshape."""
ASSUMED_SIDE = 640
"""Side in pixels to assume for a dynamic image input: the usual size in YOLO exports."""


def shapes(
    model: ModelProto, inputs: Mapping[str, Sequence[int]] | None = None, *, trusted: bool = False
) -> dict[str, Shape]:
    """Return the shape of each tensor of `model` by name; an unknown dimension is None.

    `inputs` fixes the shapes of inputs by name; a first dimension that remains unknown counts as batch 1. `trusted`:
    for a model that edgesparse itself rewrote, no process is forked. Raises ModelError if `inputs` names
    no input of the model, or has another rank.
    """
    skeleton = _skeleton(model)
    known = {value.name for value in skeleton.graph.input}
    for name in inputs or {}:
        if name not in known:
            raise ModelError(f"no input {name!r} in this model: it has {', '.join(sorted(known))}")
    for value in skeleton.graph.input:
        _fix(value, (inputs or {}).get(value.name))
    inferred = (onnx.shape_inference.infer_shapes if trusted else partial(infer_shapes, strict=False))(skeleton).graph
    every = (*inferred.value_info, *inferred.input, *inferred.output)
    known_shapes = {value.name: _shape(value) for value in every if value.type.tensor_type.HasField("shape")}
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer} | known_shapes


def assumed_shapes(model: ModelProto, inputs: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return shapes to assume for image inputs with a dynamic height or width that `inputs` does not fix, by name.

    (height, width) is that of the metadata (Ultralytics' `imgsz`), else ASSUMED_SIDE. Batch is 1.
    """
    described = info(model)
    assumed: dict[str, tuple[int, ...]] = {}
    for name, shape in described.inputs.items():
        is_image = len(shape) == 4 and shape[1] in (3, None)
        if is_image and name not in inputs and None in shape[2:]:
            height, width = metadata_size(described.metadata) or (ASSUMED_SIDE, ASSUMED_SIDE)
            assumed[name] = (shape[0] or 1, 3, shape[2] or height, shape[3] or width)
    return assumed


def _skeleton(model: ModelProto) -> ModelProto:
    """Return `model` with its large tensors declared as inputs, so that no weight is copied and the 2 GB limit is not
    reached.
    """
    skeleton = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    graph = skeleton.graph
    graph.name = "shapes"
    large: list[tuple[str, TensorProto]] = []
    for tensor in model.graph.initializer:
        large.append((tensor.name, tensor)) if _is_large(tensor) else graph.initializer.append(tensor)
    for node in model.graph.node:
        value = node.attribute[0].t if node.op_type == "Constant" and len(node.attribute) == 1 else TensorProto()
        large.append((node.output[0], value)) if _is_large(value) else graph.node.append(node)
    stored = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in stored)
    graph.input.extend(helper.make_tensor_value_info(name, t.data_type, list(t.dims)) for name, t in large)
    graph.output.extend(ValueInfoProto(name=value.name) for value in model.graph.output)
    foreign = {out for node in model.graph.node if node.domain not in ("", "ai.onnx") for out in node.output}
    graph.value_info.extend(value for value in model.graph.value_info if value.name in foreign)
    return skeleton


def _is_large(tensor: TensorProto) -> bool:
    count = 1
    for n in tensor.dims:
        count *= n
    return count > SMALL


def _fix(value: ValueInfoProto, shape: Sequence[int] | None) -> None:
    dims = value.type.tensor_type.shape.dim
    if shape is not None and len(shape) != len(dims):
        raise ModelError(f"input {value.name!r} has {len(dims)} dimensions, not {len(shape)}: {list(shape)}")
    for i, dim in enumerate(dims):
        if shape is not None:
            dim.dim_value = int(shape[i])
        elif i == 0 and dim.dim_value < 1:
            dim.dim_value = 1


def _shape(value: ValueInfoProto) -> Shape:
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)
