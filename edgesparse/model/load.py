"""Reading ONNX files: checked, described, with static shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from edgesparse.errors import ModelError

Model = onnx.ModelProto
Shape = tuple[int | None, ...]
"""None stands for a dynamic dimension."""
NUMBERS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
"""Attributes in which a Constant may hold numbers without a tensor, and the type that they then have."""


@dataclass(frozen=True)
class ModelInfo:
    """What a file says of itself. `inputs` and `outputs`: name -> shape. `metadata`: its free properties."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    metadata: dict[str, str]
    opset: int
    producer: str

    @property
    def image(self) -> str:
        """Name of the image's input: the only one of four dimensions with three channels."""
        found = [name for name, shape in self.inputs.items() if len(shape) == 4 and shape[1] in (3, None)]
        if len(found) != 1:
            raise ModelError(f"needed one image input N x 3 x H x W, found {describe(self.inputs)}")
        return found[0]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input: from its shape, else from Ultralytics' `imgsz`, else None."""
        height, width = self.inputs[self.image][2:]
        if height and width:
            return height, width
        said = re.findall(r"\d+", self.metadata.get("imgsz", ""))
        return (int(said[0]), int(said[1])) if len(said) == 2 else None


def load(path: Path) -> onnx.ModelProto:
    """A checked model, external data included; its Constants hold numbers as tensors.

    Raises ModelError: missing, no ONNX, truncated, unknown operators.
    """
    model = _parse(path, True)
    if not model.graph.node:
        raise ModelError(f"{path} is not a whole ONNX file: it holds no operators; export or copy it again")
    _sort(model.graph)
    _check(model, path)
    _numbers_to_tensors(model.graph)
    return model


def files(path: Path) -> list[Path]:
    """The ONNX file, and those beside it that hold its weights, whether they are there or not. Raises ModelError."""
    tensors = [tensor for _, tensor in constant_tensors(_parse(path, False))]
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / place for place in sorted(places))]


def info(model: onnx.ModelProto) -> ModelInfo:
    weights = {tensor.name for tensor in model.graph.initializer}
    return ModelInfo(
        inputs={value.name: _shape(value) for value in model.graph.input if value.name not in weights},
        outputs={value.name: _shape(value) for value in model.graph.output},
        metadata={item.key: item.value for item in model.metadata_props},
        opset=next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
    )


def fix_shapes(model: onnx.ModelProto, batch: int, size: tuple[int, int] | None) -> onnx.ModelProto:
    """The same model with a static input of this batch and (height, width).

    A model with another static batch is rewritten: its input, and the constant shapes of Reshape that hold the old
    batch in front. Raises ModelError when the size is dynamic and none is given, or static and another.
    """
    said = info(model)
    size = size or said.size
    if size is None:
        raise ModelError(
            f"the input {describe(said.inputs)} has no fixed height and width: set input.size in a recipe, "
            "which 'edgesparse recipe MODEL --size H W' writes"
        )
    for needed, found in zip(size, said.inputs[said.image][2:], strict=True):
        if found not in (needed, None):
            shape = "x".join(map(str, size))
            raise ModelError(f"the input is {describe(said.inputs)}, asked for {shape}: export the model at {shape}")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    old = said.inputs[said.image][0]
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if said.inputs.get(value.name, ())[:1] in ((old,), (None,)):
            dims[0].dim_value = batch
        if value.name == said.image:
            dims[1].dim_value, (dims[2].dim_value, dims[3].dim_value) = 3, size
    if old not in (batch, None):
        _rebatch_reshapes(fixed, old, batch)
    return _infer(fixed)


def byte_input(model: onnx.ModelProto, scale: float, mean: Sequence[float], std: Sequence[float]) -> onnx.ModelProto:
    """The same model with its image as uint8: `(pixel * scale - mean) / std` becomes part of the graph.

    An image in bytes is a quarter of the memory to write, and the engine converts it with all its threads. A model
    that takes bytes already comes back as it is.
    """
    said = info(model)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    value = next(value for value in changed.graph.input if value.name == said.image)
    kind = value.type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        return changed
    scaled = f"{said.image}_scaled"
    for node in changed.graph.node:
        node.input[:] = [scaled if name == said.image else name for name in node.input]
    value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    factor = np.array([scale / s for s in std], np.float32).reshape(1, 3, 1, 1)
    offset = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32).reshape(1, 3, 1, 1)
    steps: list[tuple[str, NDArray[np.float32] | None]] = [("Cast", None)]
    steps += [("Mul", factor)] if (factor != 1).any() else []
    steps += [("Add", offset)] if offset.any() else []
    name = said.image
    for number, (operator, constant) in enumerate(steps):
        made = scaled if number == len(steps) - 1 else f"{scaled}_{number}"
        if constant is None:
            node = onnx.helper.make_node(operator, [name], [made], made, to=kind)
        else:
            tensor = numpy_helper.from_array(constant.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)), f"{made}_by")
            changed.graph.initializer.append(tensor)
            node = onnx.helper.make_node(operator, [name, tensor.name], [made], made)
        changed.graph.node.insert(number, node)
        name = made
    return changed


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write one file; weights past protobuf's 2 GB go into PATH.data beside it."""
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
        raise ModelError(f"no model {path}: give the path of an ONNX file")
    try:
        return onnx.load(str(path), format="protobuf", load_external_data=weights_beside)
    except DecodeError:
        raise ModelError(f"{path} is not a whole ONNX file (not ONNX, or truncated): export or copy it again") from None
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"cannot read {path}: {_one_line(error)}; weights in files beside it must come along"
        ) from None


def _check(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model if model.ByteSize() < 2**31 else str(path))
    except Exception as error:
        text = _one_line(error)
        unknown = re.search(r"No Op registered for (\S+) with domain_version of (\d+)", text)
        if unknown:
            raise ModelError(
                f"{path}: operator {unknown[1]} is not in ONNX opset {unknown[2]}: export with plain ONNX operators"
            ) from None
        raise ModelError(f"{path}: not valid ONNX: {text}") from None
    damaged = next((tensor.name for tensor in model.graph.initializer if not _readable(tensor)), None)
    if damaged is not None:
        raise ModelError(f"{path}: the weight {damaged} is damaged: export or copy it again")


def _readable(tensor: onnx.TensorProto) -> bool:
    """Whether its numbers are as many as its shape says; ONNX's checker lets more pass."""
    try:
        numpy_helper.to_array(tensor)
    except Exception:
        return False
    return True


def _sort(graph: onnx.GraphProto) -> None:
    """Every node behind those that it reads: ONNX Runtime's FP16 converter puts the Casts at the inputs last."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output}
    needs = {i: {producer[name] for name in _reads(node) if name in producer} for i, node in enumerate(graph.node)}
    if all(before < i for i, all_before in needs.items() for before in all_before):
        return
    nodes = list(graph.node)
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError:
        return  # the checker says it
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, and what the graphs inside it (the branches of an If) read."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)


def _numbers_to_tensors(graph: onnx.GraphProto) -> None:
    """The numbers of Constants become tensors, in the graphs inside nodes too, so that every reader finds them there.

    TensorRT 8.5's parser looks for `value_int` and `value_ints` among the floats, where they are not.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _numbers_to_tensors(inner)
            if node.op_type == "Constant" and attribute.name in NUMBERS:
                held = np.array(onnx.helper.get_attribute_value(attribute), NUMBERS[attribute.name])
                attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(held)))


def _rebatch_reshapes(model: onnx.ModelProto, old: int, batch: int) -> None:
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in constant_tensors(model):
        name, proto = tensor
        if name in shapes:
            array = numpy_helper.to_array(proto).copy()
            if array.ndim == 1 and len(array) > 1 and array[0] == old:
                array[0] = batch
                proto.CopyFrom(numpy_helper.from_array(array, proto.name))


def constant_tensors(model: onnx.ModelProto) -> Iterable[tuple[str, onnx.TensorProto]]:
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                yield node.output[0], attribute.t


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer every shape anew: those written in the file belong to the old input."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ModelError(f"the network does not take this batch and size: {_one_line(error)}") from None


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).split(" ==> Context")[0].strip()[:300]
