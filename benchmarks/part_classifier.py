"""A small network of matrix products, trained here in seconds: which part is in a crop of the demo's scenes?"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesparse.demo.scene import CLASSES, still

Floats = NDArray[np.float32]
SIDE, WIDTHS, EPOCHS, BATCH, RATE = 12, (64, 64), 30, 64, 2e-3


def crops(first_seed: int, scenes: int) -> tuple[Floats, NDArray[np.int64]]:
    """Crops of every labeled part in `scenes` stills from `first_seed` on, [n, SIDE * SIDE * 3] in -0.5..0.5, and
    their classes."""
    result, classes = [], []
    for seed in range(first_seed, first_seed + scenes):
        image, labels = still(seed, height=480, width=640)
        for (x, y, right, bottom), label in zip(labels.xyxy.astype(int), labels.class_id, strict=True):
            part = image[max(y, 0) : bottom + 1, max(x, 0) : right + 1]
            result.append(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA).reshape(-1))
            classes.append(label)
    return np.stack(result).astype(np.float32) / np.float32(255) - np.float32(0.5), np.array(classes, np.int64)


def train(x: Floats, labels: NDArray[np.int64]) -> list[tuple[Floats, Floats]]:
    """Train with Adam on the cross entropy. Returns weights [inputs, outputs] and bias of each layer, with ReLU
    between."""
    random = np.random.default_rng(0)
    sizes = (x.shape[1], *WIDTHS, len(CLASSES))
    layers: list[tuple[Floats, Floats]] = [
        (random.normal(0, (2 / a) ** 0.5, (a, b)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in pairwise(sizes)
    ]
    mean, square = ([[np.zeros_like(v) for v in layer] for layer in layers] for _ in range(2))
    step = 0
    for _ in range(EPOCHS):
        for rows in np.array_split(random.permutation(len(x)), max(1, len(x) // BATCH)):
            step += 1
            for i, slopes in enumerate(_slopes(layers, x[rows], labels[rows])):
                for k, slope in enumerate(slopes):
                    mean[i][k] += 0.1 * (slope - mean[i][k])
                    square[i][k] += 0.001 * (slope**2 - square[i][k])
                    size = (square[i][k] / (1 - 0.999**step)) ** 0.5 + 1e-8
                    layers[i][k][...] -= RATE * mean[i][k] / (1 - 0.9**step) / size
    return layers


def _slopes(layers: list[tuple[Floats, Floats]], x: Floats, labels: NDArray[np.int64]) -> list[tuple[Floats, Floats]]:
    captured = [x]
    for weight, bias in layers:
        captured.append(
            np.maximum(captured[-1] @ weight + bias, 0) if weight is not layers[-1][0] else captured[-1] @ weight + bias
        )
    back = np.exp(captured[-1] - captured[-1].max(1, keepdims=True))
    back /= back.sum(1, keepdims=True)
    back[np.arange(len(labels)), labels] -= 1
    back /= len(labels)
    slopes = []
    for (weight, _), inputs in zip(layers[::-1], captured[-2::-1], strict=True):
        slopes.append((inputs.T @ back, back.sum(0)))
        back = (back @ weight.T) * (inputs > 0)
    return slopes[::-1]


def export(layers: list[tuple[Floats, Floats]]) -> onnx.ModelProto:
    """Convert to ONNX: a Gemm, a MatMul followed by an Add, and a Gemm."""
    (w1, b1), (w2, b2), (w3, b3) = layers
    nodes = [
        helper.make_node("Gemm", ["crops", "w1", "b1"], ["h1"], "first", transB=1),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"], "second"),
        helper.make_node("Add", ["m2", "b2"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["r2"]),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["scores"], "third"),
    ]
    stored = {"w1": np.ascontiguousarray(w1.T), "b1": b1, "w2": w2, "b2": b2, "w3": w3, "b3": b3}
    graph = helper.make_graph(
        nodes,
        "parts",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["n", w1.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
