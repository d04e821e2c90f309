"""Networks with the layer shapes of YOLOX and YOLOv7 and random weights.

    python benchmarks/yolo_shapes.py FOLDER        writes yoloxt.onnx, yoloxs.onnx, yoloxm.onnx, yolov7t.onnx, ...

`python benchmarks/predict.py --shapes FOLDER/*.onnx` reads them. yolov7m is the base YOLOv7 (Wang et al., 2022), whose
re-parameterized layers are plain 3x3 convolutions once they are exported. YOLOX: Ge et al., 2021.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.orin_slice.networks import Graph

SIZE, CLASSES, ANCHORS = 640, 80, 3


def yolox(depth: float, width: float, activation: str = "silu") -> ModelProto:
    g, base, n = Graph(activation), int(64 * width), max(round(3 * depth), 1)
    x = g.conv(_focus(g), 12, base, 3)
    x = _csp(g, g.conv(x, base, 2 * base, 3, 2), 2 * base, 2 * base, n)
    p3 = _csp(g, g.conv(x, 2 * base, 4 * base, 3, 2), 4 * base, 4 * base, 3 * n)
    p4 = _csp(g, g.conv(p3, 4 * base, 8 * base, 3, 2), 8 * base, 8 * base, 3 * n)
    x = _spp(g, g.conv(p4, 8 * base, 16 * base, 3, 2), 16 * base)
    p5 = _csp(g, x, 16 * base, 16 * base, n, shortcut=False)
    low = g.conv(p5, 16 * base, 8 * base)
    x = g.op("Concat", [g.upsample(low), p4], axis=1)
    middle = g.conv(_csp(g, x, 16 * base, 8 * base, n, shortcut=False), 8 * base, 4 * base)
    x = g.op("Concat", [g.upsample(middle), p3], axis=1)
    n3 = _csp(g, x, 8 * base, 4 * base, n, shortcut=False)
    x = g.op("Concat", [g.conv(n3, 4 * base, 4 * base, 3, 2), middle], axis=1)
    n4 = _csp(g, x, 8 * base, 8 * base, n, shortcut=False)
    x = g.op("Concat", [g.conv(n4, 8 * base, 8 * base, 3, 2), low], axis=1)
    n5 = _csp(g, x, 16 * base, 16 * base, n, shortcut=False)
    outputs = [_yolox_head(g, *level, int(256 * width)) for level in ((n3, 4 * base), (n4, 8 * base), (n5, 16 * base))]
    out = g.op("Transpose", [g.op("Concat", outputs, axis=2)], perm=[0, 2, 1])
    return _finished(g, "yolox", out, [1, sum((SIZE // s) ** 2 for s in (8, 16, 32)), 5 + CLASSES])


def _focus(g: Graph) -> str:
    parts = []
    for column in (0, 1):
        for row in (0, 1):
            bounds = [np.array(value, np.int64) for value in ([row, column], [SIZE, SIZE], [2, 3], [2, 2])]
            parts.append(g.op("Slice", ["images", *(g.constant(value, "bound") for value in bounds)]))
    return g.op("Concat", parts, axis=1)


def _csp(g: Graph, x: str, before: int, after: int, count: int, *, shortcut: bool = True) -> str:
    half = after // 2
    inner, beside = g.conv(x, before, half), g.conv(x, before, half)
    for _ in range(count):
        y = g.conv(g.conv(inner, half, half), half, half, 3)
        inner = g.op("Add", [inner, y]) if shortcut else y
    return g.conv(g.op("Concat", [inner, beside], axis=1), 2 * half, after)


def _pools(g: Graph, x: str) -> list[str]:
    sizes = (5, 9, 13)
    return [x, *(g.op("MaxPool", [x], kernel_shape=[k, k], strides=[1, 1], pads=[k // 2] * 4) for k in sizes)]


def _spp(g: Graph, x: str, channels: int) -> str:
    pooled = g.op("Concat", _pools(g, g.conv(x, channels, channels // 2)), axis=1)
    return g.conv(pooled, 2 * channels, channels)


def _yolox_head(g: Graph, x: str, channels: int, hidden: int) -> str:
    stem = g.conv(x, channels, hidden)
    scores = g.conv(g.conv(stem, hidden, hidden, 3), hidden, hidden, 3)
    boxes = g.conv(g.conv(stem, hidden, hidden, 3), hidden, hidden, 3)
    parts = [
        g.conv(boxes, hidden, 4, activate=False),
        g.op("Sigmoid", [g.conv(boxes, hidden, 1, activate=False)]),
        g.op("Sigmoid", [g.conv(scores, hidden, CLASSES, activate=False)]),
    ]
    return g.reshape(g.op("Concat", parts, axis=1), 1, 5 + CLASSES, -1)


def yolov7_tiny() -> ModelProto:
    g = Graph("leaky")
    x = g.conv(g.conv("images", 3, 32, 3, 2), 32, 64, 3, 2)
    x = _elan_tiny(g, x, 64, 32, 64)
    p3 = _elan_tiny(g, _halved(g, x), 64, 64, 128)
    p4 = _elan_tiny(g, _halved(g, p3), 128, 128, 256)
    x = _elan_tiny(g, _halved(g, p4), 256, 256, 512)
    inner, beside = g.conv(x, 512, 256), g.conv(x, 512, 256)
    inner = g.conv(g.op("Concat", _pools(g, inner), axis=1), 1024, 256)
    p5 = g.conv(g.op("Concat", [inner, beside], axis=1), 512, 256)
    x = g.op("Concat", [g.conv(p4, 256, 128), g.upsample(g.conv(p5, 256, 128))], axis=1)
    n4 = _elan_tiny(g, x, 256, 64, 128)
    x = g.op("Concat", [g.conv(p3, 128, 64), g.upsample(g.conv(n4, 128, 64))], axis=1)
    n3 = _elan_tiny(g, x, 128, 32, 64)
    n4 = _elan_tiny(g, g.op("Concat", [g.conv(n3, 64, 128, 3, 2), n4], axis=1), 256, 64, 128)
    n5 = _elan_tiny(g, g.op("Concat", [g.conv(n4, 128, 256, 3, 2), p5], axis=1), 512, 128, 256)
    levels = [(g.conv(x, c, 2 * c, 3), 2 * c) for x, c in ((n3, 64), (n4, 128), (n5, 256))]
    return _anchored(g, "yolov7t", levels)


def _elan_tiny(g: Graph, x: str, before: int, hidden: int, after: int) -> str:
    beside, first = g.conv(x, before, hidden), g.conv(x, before, hidden)
    second = g.conv(first, hidden, hidden, 3)
    third = g.conv(second, hidden, hidden, 3)
    return g.conv(g.op("Concat", [third, second, first, beside], axis=1), 4 * hidden, after)


def yolov7() -> ModelProto:
    g = Graph("silu")
    x = g.conv(g.conv(g.conv("images", 3, 32, 3), 32, 64, 3, 2), 64, 64, 3)
    x = _elan(g, g.conv(x, 64, 128, 3, 2), 128, 64, 256)
    p3 = _elan(g, _down(g, x, 256, 128), 256, 128, 512)
    p4 = _elan(g, _down(g, p3, 512, 256), 512, 256, 1024)
    x = _elan(g, _down(g, p4, 1024, 512), 1024, 256, 1024)
    inner = g.conv(g.conv(g.conv(x, 1024, 512), 512, 512, 3), 512, 512)
    inner = g.conv(g.conv(g.op("Concat", _pools(g, inner), axis=1), 2048, 512), 512, 512, 3)
    p5 = g.conv(g.op("Concat", [inner, g.conv(x, 1024, 512)], axis=1), 1024, 512)
    x = g.op("Concat", [g.conv(p4, 1024, 256), g.upsample(g.conv(p5, 512, 256))], axis=1)
    n4 = _elan_wide(g, x, 512, 256)
    x = g.op("Concat", [g.conv(p3, 512, 128), g.upsample(g.conv(n4, 256, 128))], axis=1)
    n3 = _elan_wide(g, x, 256, 128)
    n4 = _elan_wide(g, g.op("Concat", [_down(g, n3, 128, 128), n4], axis=1), 512, 256)
    n5 = _elan_wide(g, g.op("Concat", [_down(g, n4, 256, 256), p5], axis=1), 1024, 512)
    levels = [(g.conv(x, c, 2 * c, 3), 2 * c) for x, c in ((n3, 128), (n4, 256), (n5, 512))]
    return _anchored(g, "yolov7m", levels)


def _elan(g: Graph, x: str, before: int, hidden: int, after: int) -> str:
    beside, first = g.conv(x, before, hidden), g.conv(x, before, hidden)
    second = g.conv(g.conv(first, hidden, hidden, 3), hidden, hidden, 3)
    third = g.conv(g.conv(second, hidden, hidden, 3), hidden, hidden, 3)
    return g.conv(g.op("Concat", [third, second, first, beside], axis=1), 4 * hidden, after)


def _elan_wide(g: Graph, x: str, before: int, after: int) -> str:
    parts = [g.conv(x, before, after), g.conv(x, before, after)]
    channels = after
    for _ in range(4):
        parts.append(g.conv(parts[-1], channels, after // 2, 3))
        channels = after // 2
    return g.conv(g.op("Concat", parts, axis=1), 4 * after, after)


def _halved(g: Graph, x: str) -> str:
    return g.op("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])


def _down(g: Graph, x: str, before: int, hidden: int) -> str:
    pooled = g.conv(_halved(g, x), before, hidden)
    strided = g.conv(g.conv(x, before, hidden), hidden, hidden, 3, 2)
    return g.op("Concat", [pooled, strided], axis=1)


def _anchored(g: Graph, name: str, levels: list[tuple[str, int]]) -> ModelProto:
    """The head with anchors, decoded: sigmoid, then centers and sizes from constants."""
    outputs = []
    for x, channels in levels:
        raw = g.conv(x, channels, ANCHORS * (5 + CLASSES), activate=False)
        raw = g.op("Sigmoid", [g.op("Transpose", [g.reshape(raw, 1, ANCHORS, 5 + CLASSES, -1)], perm=[0, 1, 3, 2])])
        outputs.append(g.reshape(g.op("Mul", [raw, g.constant(np.array(2.0, np.float32), "two")]), 1, -1, 5 + CLASSES))
    out = g.op("Concat", outputs, axis=1)
    return _finished(g, name, out, [1, ANCHORS * sum((SIZE // s) ** 2 for s in (8, 16, 32)), 5 + CLASSES])


def _finished(g: Graph, name: str, out: str, result: list[int]) -> ModelProto:
    return g.finish(name, [1, 3, SIZE, SIZE], out, result)


NETWORKS = {
    "yoloxt": lambda: yolox(0.33, 0.375),
    "yoloxs": lambda: yolox(0.33, 0.5),
    "yoloxs_leaky": lambda: yolox(0.33, 0.5, "leaky"),
    "yoloxm": lambda: yolox(0.67, 0.75),
    "yolov7t": yolov7_tiny,
    "yolov7m": yolov7,
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in NETWORKS.items():
        onnx.save(make(), folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
