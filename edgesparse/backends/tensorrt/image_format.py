"""The layout in which TensorRT takes the image: offered when an engine is built, read when it is loaded.

By default an engine takes FP32 planes, and its first step copies them into the type and layout of the first kernel. If
the builder may choose among the layouts that the letterbox writes, the letterbox writes the right one, and the copy is
gone. Of 3 channels, HWC8, CHW4 and CHW32 are the same layout: N x H x W x 8, 4 or 32, with zeros behind the colors.
"""

from __future__ import annotations

import json
from typing import Any

from edgesparse.backends.base import ImageInput
from edgesparse.backends.cuda.formats import ImageFormat
from edgesparse.backends.tensorrt.network import Session
from edgesparse.errors import BuildError

LAYOUTS = {"LINEAR": 0, "HWC8": 8, "CHW4": 4, "CHW32": 32}
"""Channels of a pixel that are adjacent, by TensorRT's name of the layout; 0: planes."""
OFFERED = {"float16": ("LINEAR", "HWC8"), "int8": ("LINEAR", "CHW4", "CHW32")}
"""Those of each type that both the kernels and TensorRT 8.5 to 11 have. It has others for DLA, and one without padding
for FP32 alone."""
_TYPES = {"float16": "HALF", "int8": "INT8"}
_MARK = "edgesparse image, scale "
"""Before the scale in the name of a network whose image is offered: an engine keeps that name."""


def offer(session: Session, image: ImageInput) -> None:
    """Let the builder choose how the engine takes the image, of the type in `image`.

    An INT8 input is either INT8 in the ONNX file, followed by DequantizeLinear, or quantized by its dynamic range.
    Raises BuildError if the network has other inputs, or a type that cannot be changed.
    """
    trt, network = session.trt, session.network
    if network.num_inputs != 1:
        raise BuildError(f"needed the image as the only input, found {', '.join(session.inputs)}")
    tensor, kind = network.get_input(0), getattr(trt.DataType, _TYPES[image.dtype])
    if tensor.dtype != kind:
        tensor.dtype = kind
        if image.dtype == "int8":
            tensor.set_dynamic_range(-127 * image.scale, 127 * image.scale)
    tensor.allowed_formats = sum(1 << int(getattr(trt.TensorFormat, name)) for name in OFFERED[image.dtype])
    network.name = f"{_MARK}{image.scale!r}"


def read(engine: Any) -> dict[str, ImageFormat]:
    """The format of the image input by its name; empty unless the engine was built with `offer`.

    Raises BuildError for a layout that the kernels do not write.
    """
    if not str(engine.name).startswith(_MARK):
        return {}
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    name = next(name for name in names if engine.get_tensor_mode(name).name == "INPUT")
    kind, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name).name
    dtype = next((dtype for dtype, known in _TYPES.items() if known == kind), "")
    if layout not in OFFERED.get(dtype, ()):
        raise BuildError(f"{name} is {kind} {layout}, which no kernel writes: build it again with build.image: planes")
    return {name: ImageFormat(dtype, LAYOUTS[layout], float(str(engine.name).removeprefix(_MARK)))}


def described(engine: Any, information: str) -> str:
    """How an engine that was built with `offer` takes the image, and whether its first step copies it; else empty.

    `information`: the engine inspector's JSON.
    """
    for name, image in read(engine).items():
        layout = next(layout for layout, channels in LAYOUTS.items() if channels == image.channels)
        copied = copied_tensors(information)
        if copied is None:
            return f"{image.dtype} {layout}"
        return f"{image.dtype} {layout}, {'copied into another' if name in copied else 'used as it is'}"
    return ""


def copied_tensors(information: str) -> set[str] | None:
    """The tensors that an engine's layers read only to copy them into another type or layout; None without details."""
    layers = json.loads(information, strict=False)["Layers"]
    if not all(isinstance(layer, dict) for layer in layers):
        return None
    copies = [layer for layer in layers if layer.get("LayerType") == "Reformat"]
    return {str(tensor.get("Name")) for layer in copies for tensor in layer.get("Inputs", ())}
