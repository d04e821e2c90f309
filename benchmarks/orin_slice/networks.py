"""The networks that are built in the slice: chains of convolutions, and YOLOv8's shape, with random weights.

Random weights serve for times and kernels, not for detections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgesparse.int8.placement import Placement
from edgesparse.int8.quantize import quantize, quantized_tensors
from edgesparse.sparsity.prune import prune

SCALES = {"n": (1 / 3, 0.25, 1024), "s": (1 / 3, 0.5, 1024), "m": (2 / 3, 0.75, 768)}
"""YOLOv8's sizes: depth, width, and maximum channels before scaling by the width (Ultralytics' yolov8.yaml)."""
SCALE = 0.03
"""Range of every tensor that gets Q/DQ."""


@dataclass(frozen=True)
class Chain:
    """`depth` convolutions from `channels` to `channels`, each with an activation, then a 1x1 convolution to 16
    channels."""

    kernel: int
    channels: int
    size: int
    batch: int = 1
    activation: str = "relu"
    depth: int = 4

    @property
    def name(self) -> str:
        shape = f"{self.channels} at {self.size}x{self.size}"
        return f"{self.depth} conv{self.kernel}x{self.kernel}-{self.activation} {shape} batch {self.batch}"

    def model(self) -> ModelProto:
        graph = Graph(self.activation)
        x = "images"
        for _ in range(self.depth):
            x = graph.conv(x, self.channels, self.channels, self.kernel)
        out = graph.conv(x, self.channels, 16, activate=False)
        shape = [self.batch, self.channels, self.size, self.size]
        return graph.finish(self.name, shape, out, [self.batch, 16, self.size, self.size])


CHAINS = (
    *(Chain(3, 64, 80, b) for b in (1, 4, 8)),
    Chain(3, 64, 160),
    *(Chain(3, 128, 40, b) for b in (1, 4, 8)),
    Chain(3, 128, 80),
    *(Chain(3, 256, 20, b) for b in (1, 4, 8)),
    Chain(3, 256, 40),
    *(Chain(3, 512, 20, b) for b in (1, 4)),
    Chain(1, 256, 40),
    *(Chain(1, 512, 20, b) for b in (1, 8)),
    Chain(3, 256, 20, activation="silu", depth=2),
    Chain(3, 128, 40, activation="silu", depth=2),
)


def pruned(model: ModelProto) -> ModelProto:
    """A copy with every eligible layer 2:4, by magnitude."""
    copy = ModelProto()
    copy.CopyFrom(model)
    prune(copy)
    return copy


def with_qdq(model: ModelProto, placement: Placement) -> ModelProto:
    """A copy with Q/DQ in the `fuse` or the `sparse` placement."""
    scales = dict.fromkeys(quantized_tensors(model, placement), SCALE)
    return quantize(model, scales, placement=placement)[0]


class Graph:
    """Collects nodes and weights; batch norms are folded, as exporters do."""

    def __init__(self, activation: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.activation, self._count, self._random = activation, 0, np.random.default_rng(0)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def constant(self, value: NDArray[np.generic], kind: str) -> str:
        name = self._name(kind)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        out = self._name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [out], out, **attributes))
        return out

    def split(self, x: str, channels: int, axis: int = 1) -> tuple[str, str]:
        first, second = self._name("split"), self._name("split")
        sizes = self.constant(np.array([channels, channels]), "sizes")
        self.nodes.append(helper.make_node("Split", [x, sizes], [first, second], first, axis=axis))
        return first, second

    def conv(self, x: str, before: int, after: int, kernel: int = 1, stride: int = 1, *, activate: bool = True) -> str:
        shape, deviation = (after, before, kernel, kernel), 1.5 / np.sqrt(before * kernel * kernel)
        weight = self.constant((self._random.standard_normal(shape) * deviation).astype(np.float32), "weight")
        bias = self.constant(np.full(after, 0.01, np.float32), "bias")
        spatial = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        x = self.op("Conv", [x, weight, bias], **spatial)
        if not activate:
            return x
        if self.activation == "silu":
            return self.op("Mul", [x, self.op("Sigmoid", [x])])
        return self.op({"relu": "Relu", "leaky": "LeakyRelu"}[self.activation], [x])

    def c2f(self, x: str, before: int, after: int, depth: int, shortcut: bool) -> str:
        half = after // 2
        parts = list(self.split(self.conv(x, before, after), half))
        for _ in range(depth):
            inner = self.conv(self.conv(parts[-1], half, half, 3), half, half, 3)
            parts.append(self.op("Add", [parts[-1], inner]) if shortcut else inner)
        return self.conv(self.op("Concat", parts, axis=1), half * (2 + depth), after)

    def upsample(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32), "scales")
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op("Resize", [x, "", scales], mode="nearest", **how)

    def sppf(self, x: str, channels: int) -> str:
        pooled = [self.conv(x, channels, channels // 2)]
        for _ in range(3):
            pooled.append(self.op("MaxPool", [pooled[-1]], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
        return self.conv(self.op("Concat", pooled, axis=1), channels * 2, channels)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", [x, self.constant(np.array(shape), "shape")])

    def finish(self, name: str, shape: list[int], out: str, result: list[int]) -> ModelProto:
        self.nodes.append(helper.make_node("Identity", [out], ["output0"], "output"))
        inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, result)]
        graph = helper.make_graph(self.nodes, name.replace(" ", "_"), inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model)


def yolov8(width: str, activation: str, size: int = 640, classes: int = 80, batch: int = 1) -> ModelProto:
    """YOLOv8 `n`, `s` or `m` with `silu` or `relu`, its DFL head included; output [batch, 4 + classes, anchors]."""
    depth, factor, most = SCALES[width]
    c1, c2, c3, c4, c5 = (int(-(-min(c, most) * factor // 8) * 8) for c in (64, 128, 256, 512, 1024))
    three, six = max(round(3 * depth), 1), max(round(6 * depth), 1)
    g = Graph(activation)
    x = g.c2f(g.conv(g.conv("images", 3, c1, 3, 2), c1, c2, 3, 2), c2, c2, three, True)
    p3 = g.c2f(g.conv(x, c2, c3, 3, 2), c3, c3, six, True)
    p4 = g.c2f(g.conv(p3, c3, c4, 3, 2), c4, c4, six, True)
    p5 = g.sppf(g.c2f(g.conv(p4, c4, c5, 3, 2), c5, c5, three, True), c5)
    n4 = g.c2f(g.op("Concat", [g.upsample(p5), p4], axis=1), c5 + c4, c4, three, False)
    n3 = g.c2f(g.op("Concat", [g.upsample(n4), p3], axis=1), c4 + c3, c3, three, False)
    n4 = g.c2f(g.op("Concat", [g.conv(n3, c3, c3, 3, 2), n4], axis=1), c3 + c4, c4, three, False)
    n5 = g.c2f(g.op("Concat", [g.conv(n4, c4, c4, 3, 2), p5], axis=1), c4 + c5, c5, three, False)
    out, anchors = _head(g, ((n3, c3, 8), (n4, c4, 16), (n5, c5, 32)), size, classes)
    return g.finish(f"yolov8{width}", [batch, 3, size, size], out, [batch, 4 + classes, anchors])


def _head(g: Graph, levels: tuple[tuple[str, int, int], ...], size: int, classes: int) -> tuple[str, int]:
    """The detection head's output and its number of anchors."""
    narrow = levels[0][1]
    wide_box, wide_class = max(16, narrow // 4, 64), max(narrow, min(classes, 100))
    boxes, scores, centers, strides = [], [], [], []
    for x, channels, stride in levels:
        cells = size // stride
        box = g.conv(g.conv(g.conv(x, channels, wide_box, 3), wide_box, wide_box, 3), wide_box, 64, activate=False)
        hidden = g.conv(g.conv(x, channels, wide_class, 3), wide_class, wide_class, 3)
        score = g.conv(hidden, wide_class, classes, activate=False)
        boxes.append(g.reshape(box, 0, 64, cells * cells))
        scores.append(g.reshape(score, 0, classes, cells * cells))
        rows, columns = np.mgrid[0:cells, 0:cells]
        centers.append(np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5]))
        strides.append(np.full(cells * cells, stride))
    anchors = sum(center.shape[1] for center in centers)
    bins = g.op("Transpose", [g.reshape(g.op("Concat", boxes, axis=2), 0, 4, 16, anchors)], perm=[0, 2, 1, 3])
    expectation = g.constant(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1), "dfl")
    distances = g.reshape(g.op("Conv", [g.op("Softmax", [bins], axis=1), expectation]), 0, 4, anchors)
    near, far = g.split(distances, 2)
    center = g.constant(np.concatenate(centers, 1)[None].astype(np.float32), "centers")
    low, high = g.op("Sub", [center, near]), g.op("Add", [center, far])
    middle = g.op("Mul", [g.op("Add", [low, high]), g.constant(np.array(0.5, np.float32), "half")])
    xywh = g.op("Concat", [middle, g.op("Sub", [high, low])], axis=1)
    pixels = g.op("Mul", [xywh, g.constant(np.concatenate(strides)[None, None].astype(np.float32), "strides")])
    return g.op("Concat", [pixels, g.op("Sigmoid", [g.op("Concat", scores, axis=2)])], axis=1), anchors
