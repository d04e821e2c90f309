"""Reads ONNX files: checked, described, with static shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model.check import check, one_line, require_text
from edgesparse.model.foreign import refuse_foreign
from edgesparse.model.infer import infer_shapes
from edgesparse.model.normalize import nodes_of, normalize, numbers_to_tensors
from edgesparse.model.wiring import Shape

Model = onnx.ModelProto


@dataclass(frozen=True)
class ModelInfo:
    """The declarations in a file. `inputs` and `outputs`: name -> shape. `metadata`: its custom properties."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    metadata: dict[str, str]
    opset: int
    producer: str

    @property
    def image(self) -> str:
        """Name of the image input: the only one with four dimensions and three channels. Raises ModelError."""
        images = [name for name, shape in self.inputs.items() if len(shape) == 4 and shape[1] in (3, None)]
        if len(images) != 1:
            raise ModelError(f"needed one image input N x 3 x H x W, found {describe(self.inputs)}")
        return images[0]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input: from its shape, else from Ultralytics' `imgsz`, else None."""
        height, width = self.inputs[self.image][2:]
        return (height, width) if height and width else metadata_size(self.metadata)


def metadata_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) from Ultralytics' `imgsz`, as "[640, 640]"; None where it is missing or not a size."""
    sides = re.findall(r"\d+", metadata.get("imgsz", ""), re.ASCII)
    usable = len(sides) == 2 and all(len(side) <= 5 and int(side) for side in sides)
    return (int(sides[0]), int(sides[1])) if usable else None


def load(path: Path) -> onnx.ModelProto:
    """Read, check and normalize a model, including external data. Raises ModelError: missing, not ONNX, truncated,
    damaged, unknown operators.
    """
    model = _parse(path, True)
    if not model.graph.node:
        raise ModelError(f"{path} is not a complete ONNX file: it holds no operators; export or copy it again")
    if not model.graph.output:
        raise ModelError(f"{path} has no outputs: export it again")
    require_text(model, path)
    normalize(model)
    check(model, path)
    numbers_to_tensors(model.graph)
    return model


def files(path: Path) -> list[Path]:
    """Return the ONNX file and the files next to it that hold its weights, whether they exist or not. Raises
    ModelError.
    """
    tensors = [tensor for _, tensor in constant_tensors(_parse(path, False))]
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / place for place in sorted(places))]


def info(model: onnx.ModelProto) -> ModelInfo:
    """Return inputs, outputs, metadata, opset and producer of `model`."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return ModelInfo(
        inputs={value.name: _shape(value) for value in model.graph.input if value.name not in weights},
        outputs={value.name: _shape(value) for value in model.graph.output},
        metadata={item.key: item.value for item in model.metadata_props},
        opset=next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
    )


def fix_shapes(model: onnx.ModelProto, batch: int, size: tuple[int, int] | None) -> onnx.ModelProto:
    """Return a copy of `model` with a static input of this batch and (height, width).

    In a model with another static batch, its input is rewritten, and the constant shapes of Reshape that start with the
    old batch. Raises ModelError if the size is dynamic and none is passed, or static and different.
    """
    described = info(model)
    size = size or described.size
    if size is None:
        raise ModelError(
            f"the input {describe(described.inputs)} has no fixed height and width: set input.size in a recipe, "
            "which 'edgesparse recipe MODEL --size H W' writes"
        )
    for needed, actual in zip(size, described.inputs[described.image][2:], strict=True):
        if actual not in (needed, None):
            shape = "x".join(map(str, size))
            raise ModelError(f"the input is {describe(described.inputs)}, needed {shape}: export the model at {shape}")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    old = described.inputs[described.image][0]
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if described.inputs.get(value.name, ())[:1] in ((old,), (None,)):
            dims[0].dim_value = batch
        if value.name == described.image:
            dims[1].dim_value, (dims[2].dim_value, dims[3].dim_value) = 3, size
    if old not in (batch, None):
        _rebatch_reshapes(fixed, old, batch)
    return _infer(fixed)


def byte_input(model: onnx.ModelProto, scale: float, mean: Sequence[float], std: Sequence[float]) -> onnx.ModelProto:
    """Return a copy of `model` that takes its image as uint8: `(pixel * scale - mean) / std` becomes part of the graph.

    An image in bytes is a quarter of the memory to write, and the engine converts it with all its threads. A model that
    already takes bytes is returned unchanged.
    """
    described = info(model)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    value = next(value for value in changed.graph.input if value.name == described.image)
    kind = value.type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        return changed
    scaled = f"{described.image}_scaled"
    for node in nodes_of(changed.graph):
        node.input[:] = [scaled if name == described.image else name for name in node.input]
    value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    factor = np.array([scale / s for s in std], np.float32).reshape(1, 3, 1, 1)
    offset = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32).reshape(1, 3, 1, 1)
    steps: list[tuple[str, NDArray[np.float32] | None]] = [("Cast", None)]
    steps += [("Mul", factor)] if (factor != 1).any() else []
    steps += [("Add", offset)] if offset.any() else []
    name = described.image
    for number, (operator, constant) in enumerate(steps):
        out = scaled if number == len(steps) - 1 else f"{scaled}_{number}"
        if constant is None:
            node = onnx.helper.make_node(operator, [name], [out], out, to=kind)
        else:
            tensor = numpy_helper.from_array(constant.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)), f"{out}_by")
            changed.graph.initializer.append(tensor)
            node = onnx.helper.make_node(operator, [name, tensor.name], [out], out)
        changed.graph.node.insert(number, node)
        name = out
    return changed


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write one file; weights beyond protobuf's 2 GB are written to PATH.data next to it."""
    if model.ByteSize() < 2**31 - 2**20:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=path.name + ".data")


def describe(tensors: dict[str, Shape]) -> str:
    """`images 1x3x?x?, ...`"""
    return ", ".join(
        f"{name} {'x'.join('?' if n is None else str(n) for n in shape)}" for name, shape in tensors.items()
    )


def _parse(path: Path, weights_beside: bool) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"no model {path}: pass the path of an ONNX file")
    refuse_foreign(path)
    try:
        return onnx.load(str(path), format="protobuf", load_external_data=weights_beside)
    except DecodeError:
        raise ModelError(
            f"{path} is not a complete ONNX file (not ONNX, or truncated): export or copy it again"
        ) from None
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"cannot read {path}: {one_line(error)}; files next to it that hold weights must be copied too"
        ) from None


def _rebatch_reshapes(model: onnx.ModelProto, old: int, batch: int) -> None:
    """Replace the batch at the start of the constant shapes that Reshape reads."""
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for name, tensor in constant_tensors(model):
        if name in shapes:
            array = numpy_helper.to_array(tensor).copy()
            if array.ndim == 1 and len(array) > 1 and array[0] == old:
                array[0] = batch
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def constant_tensors(model: onnx.ModelProto) -> Iterable[tuple[str, onnx.TensorProto]]:
    """Yield (name, tensor) of each initializer and each Constant with a tensor."""
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                yield node.output[0], attribute.t


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer all shapes again: those in the file belong to the old input."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return infer_shapes(model)
    except ModelError as error:
        raise ModelError(f"the model does not take this batch and size: {one_line(error)}") from None


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)
