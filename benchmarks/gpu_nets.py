"""Networks generated for benchmarks/gpu_path.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.model import load as models

SIZE = (640, 640)
CLASSES = 80
STAGES = {
    "relu": ((32, 1), (64, 1), (256, 4), (512, 4), (512, 4)),
    "small": ((16, 1), (32, 1), (64, 1), (64, 1), (64, 1)),
}
"""Channels and convolutions per stage. Each stage halves the resolution: 320, 160, 80, 40, 20 pixels per side. `relu`
needs 36 billion multiplications per image; `small` needs almost none and builds in a few seconds."""


def relu_blocks(path: Path, name: str, batch: int) -> Path:
    """3x3 convolutions with ReLU, and a head at the last three stages with YOLOv8's output [B, 4 + 80, 8400].

    Weights are random (He initialization), so detections are random too. Boxes and scores are the raw outputs of the
    last convolutions: operators that TensorRT 8.5 does not fuse with convolutions, such as Slice and Sigmoid, take
    minutes to build.
    """
    net = _Net(batch)
    at, channels, heads = "images", 3, []
    for i, (wide, count) in enumerate(STAGES[name]):
        for k in range(count):
            at = net.convolution(at, channels, wide, 3, 2 if k == 0 else 1, relu=True)
            channels = wide
        if i >= 2:
            side = SIZE[0] // 2 ** (i + 1)
            heads.append(net.reshape(net.convolution(at, wide, 4 + CLASSES, 1, 1), [batch, 4 + CLASSES, side * side]))
    return net.save(path, heads)


def with_qdq(path: Path, out: Path) -> Path:
    """The network with Q/DQ pairs, whose scales fit its random weights rather than images."""
    model = models.load(path)
    scales = dict.fromkeys(quantized_tensors(model), 4 / 127) | {"images": 1 / 127}
    models.save(quantize(model, scales)[0], out)
    return out


class _Net:
    def __init__(self, batch: int) -> None:
        self._batch, self._rng = batch, np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []

    def convolution(self, at: str, c: int, k: int, side: int, stride: int, relu: bool = False) -> str:
        name = f"conv{len(self._nodes)}"
        weight = self._rng.standard_normal((k, c, side, side), np.float32) * np.float32(np.sqrt(2 / (c * side * side)))
        bias = np.zeros(k, np.float32)
        if not relu:
            weight *= 0.1
            weight[:2] *= 800  # centers all over the frame
            bias[:2], bias[2:4], bias[4:] = SIZE[0] / 2, 40, -0.22
        self._keep(f"{name}.w", weight)
        self._keep(f"{name}.b", bias)
        inputs, pads = [at, f"{name}.w", f"{name}.b"], [side // 2] * 4
        self._nodes.append(helper.make_node("Conv", inputs, [name], name, strides=[stride] * 2, pads=pads))
        return self._layer("Relu", [name]) if relu else name

    def reshape(self, at: str, shape: list[int]) -> str:
        name = f"shape{len(self._nodes)}"
        self._keep(name, np.array(shape))
        return self._layer("Reshape", [at, name])

    def _layer(self, kind: str, inputs: list[str]) -> str:
        name = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name))
        return name

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        self._stored.append(numpy_helper.from_array(values, name))

    def save(self, path: Path, heads: list[str]) -> Path:
        self._nodes.append(helper.make_node("Concat", heads, ["output0"], "output", axis=2))
        count = sum((SIZE[0] // stride) ** 2 for stride in (8, 16, 32))
        entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [self._batch, 3, *SIZE])
        out = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [self._batch, 4 + CLASSES, count])
        graph = helper.make_graph(self._nodes, "relu_blocks", [entry], [out], self._stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))
        return path
