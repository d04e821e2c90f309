"""Refuses models that cannot work, in one line each: what is wrong, where it comes from, and what to do."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from edgesparse.errors import ModelError
from edgesparse.model.layers import NOT_FINITE, layer_name
from edgesparse.model.normalize import nodes_of
from edgesparse.model.weights import LAYERS, readers
from edgesparse.model.wiring import Wiring

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
ONNX_RUNTIME = ("com.microsoft", "com.ms.")
"""Prefixes of the domains of ONNX Runtime's own operators."""
MOST = 2**31
"""Values that an input may have: protobuf, TensorRT and 32-bit indices end here."""


def check(model: ModelProto, path: Path) -> None:
    """Raise ModelError if `model`, read from `path`, is not valid ONNX, is damaged, or needs a specific runtime."""
    _check_operators(model, path)
    _check_inputs(model, path)
    try:
        onnx.checker.check_model(model if model.ByteSize() < 2**31 else str(path))
    except Exception as error:
        text = one_line(error)
        unknown = re.search(r"No Op registered for (\S+) with domain_version of (\d+)", text)
        if unknown:
            raise ModelError(
                f"{path}: operator {unknown[1]} is not in ONNX opset {unknown[2]}: export with plain ONNX operators"
            ) from None
        raise ModelError(f"{path}: not valid ONNX: {text}") from None
    damaged = next((tensor.name for tensor in model.graph.initializer if not _readable(tensor)), None)
    if damaged is not None:
        raise ModelError(f"{path}: the weight {damaged} is damaged: export or copy it again")


def require_text(model: ModelProto, path: Path) -> None:
    """Raise ModelError if a name is not UTF-8, as in damaged files: protobuf then returns bytes."""
    texts = [value.name for value in (*model.graph.input, *model.graph.output)]
    texts += [tensor.name for tensor in model.graph.initializer] + [entry.domain for entry in model.opset_import]
    for node in nodes_of(model.graph):
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if not all(isinstance(text, str) for text in texts):
        raise ModelError(f"{path} is damaged (a name is not UTF-8): export or copy it again")


def require_finite(model: ModelProto) -> None:
    """Raise ModelError, naming the layer, if a stored tensor has NaN, or a layer's weights or bias have infinity."""
    wiring = Wiring(model.graph)
    for name, tensor in wiring.stored.items():
        if tensor.data_type not in FLOATS:
            continue
        values = numpy_helper.to_array(tensor)
        if np.isfinite(values).all():
            continue
        users = readers(wiring, name)
        layers = [node for node in users if node.op_type in (*LAYERS, "BatchNormalization")]
        if layers or np.isnan(values).any():
            where = layer_name((layers or users)[0]) if layers or users else name
            raise ModelError(f"{where}: {NOT_FINITE}")


def one_line(error: BaseException) -> str:
    """Return an ONNX error without line breaks and context."""
    return re.sub(r"\s+", " ", str(error)).split(" ==> Context")[0].strip()[:300]


def _check_operators(model: ModelProto, path: Path) -> None:
    foreign = next((node for node in nodes_of(model.graph) if node.domain.startswith(ONNX_RUNTIME)), None)
    if foreign is not None:
        raise ModelError(
            f"{path}: operator {foreign.op_type} of {layer_name(foreign)} is ONNX Runtime's own ({foreign.domain}), "
            "written by its optimizer or its quantization tools: use the model as it was before that, exported to ONNX"
        )


def _check_inputs(model: ModelProto, path: Path) -> None:
    for value in model.graph.input:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0]
        if prod(dims) >= MOST:
            shape = "x".join(map(str, dims))
            raise ModelError(f"{path}: the input {value.name} is {shape}: too large; export the model at its real size")


def _readable(tensor: TensorProto) -> bool:
    """Whether it has as many numbers as its shape says; ONNX's checker does not always notice."""
    try:
        numpy_helper.to_array(tensor)
    except Exception:
        return False
    return True
