"""The ways in which detectors join layers, as small ONNX graphs: x, some convolutions, a head convolution, y."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto
from small_models import Array, model, node, random

WIDTH = 8


def conv(name: str, source: str, out: str, **attributes: Any) -> NodeProto:
    """A 1x1 convolution `name` with the weight `name.w` and the bias `name.b`."""
    return node("Conv", [source, f"{name}.w", f"{name}.b"], [out], name, **attributes)


def relu(source: str, out: str) -> NodeProto:
    return node("Relu", [source], [out], f"relu {out}")


def silu(source: str, out: str) -> list[NodeProto]:
    return [node("Sigmoid", [source], [f"{out}.s"]), node("Mul", [source, f"{out}.s"], [out], f"silu {out}")]


def weights(name: str, inputs: int = WIDTH, outputs: int = WIDTH) -> dict[str, Any]:
    seed = sum(map(ord, name))
    weight = (random(outputs, inputs, 1, 1, seed=seed) / np.sqrt(inputs)).astype(np.float32)
    return {f"{name}.w": weight, f"{name}.b": random(outputs, seed=seed + 1)}


def graph(nodes: Sequence[NodeProto], *, last: str, wide: int = WIDTH, opset: int = 17, **more: Array) -> ModelProto:
    """`nodes`, then the convolution `next` on `last` (of `wide` channels) with ReLU, and the convolution `head`.

    Convolutions have WIDTH channels, unless `more` holds their weights.
    """
    tail = [conv("next", last, "n"), relu("n", "nr"), conv("head", "nr", "y")]
    tensors: dict[str, Array] = {**weights("next", wide), **weights("head")}
    for each in nodes:
        if each.op_type == "Conv":
            tensors |= weights(each.name)
    return model([*nodes, *tail], {**tensors, **more}, (1, WIDTH, 4, 4), opset=opset)


def _i64(*values: int) -> Array:
    return np.array(values, np.int64)


def residual() -> ModelProto:
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("b", "ar", "b"), relu("b", "br"), conv("c", "br", "c")]
    return graph([*nodes, node("Add", ["ar", "c"], ["sum"], "add"), relu("sum", "sr")], last="sr")


def residual_silu() -> ModelProto:
    nodes = [conv("a", "x", "a"), *silu("a", "as"), conv("b", "as", "b"), *silu("b", "bs")]
    return graph([*nodes, node("Add", ["bs", "as"], ["sum"], "add")], last="sum")


def projected() -> ModelProto:
    """Both branches come from convolutions, as in a residual block that changes its width."""
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("short", "ar", "s"), conv("b", "ar", "b")]
    return graph([*nodes, node("Add", ["s", "b"], ["sum"], "add"), relu("sum", "sr")], last="sr")


def concat() -> ModelProto:
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("b", "ar", "b"), relu("b", "br")]
    return graph([*nodes, node("Concat", ["ar", "br"], ["cat"], "cat", axis=1)], last="cat", wide=2 * WIDTH)


def concat_of_concat() -> ModelProto:
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("b", "ar", "b"), relu("b", "br"), conv("c", "br", "c")]
    nodes += [relu("c", "cr"), node("Concat", ["ar", "br"], ["inner"], "inner", axis=1)]
    return graph([*nodes, node("Concat", ["inner", "cr"], ["outer"], "outer", axis=1)], last="outer", wide=3 * WIDTH)


def silu_chain() -> ModelProto:
    return graph([conv("a", "x", "a"), *silu("a", "as")], last="as")


def hard_swish() -> ModelProto:
    return graph([conv("a", "x", "a"), node("HardSwish", ["a"], ["ah"], "swish")], last="ah")


def shared() -> ModelProto:
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("b", "ar", "b"), conv("c", "ar", "c")]
    return graph([*nodes, node("Mul", ["b", "c"], ["product"], "mul")], last="product")


def depthwise() -> ModelProto:
    weight: dict[str, Any] = {"d.w": random(WIDTH, 1, 3, 3), "d.b": random(WIDTH)}
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("d", "ar", "d", group=WIDTH, pads=[1] * 4), relu("d", "dr")]
    return graph(nodes, last="dr", **weight)


def transposed(group: int = 1) -> ModelProto:
    weight: dict[str, Any] = {"t.w": random(WIDTH, WIDTH // group, 2, 2), "t.b": random(WIDTH)}
    up = node("ConvTranspose", ["ar", "t.w", "t.b"], ["t"], "t", strides=[2, 2], group=group)
    return graph([conv("a", "x", "a"), relu("a", "ar"), up, relu("t", "tr")], last="tr", **weight)


def sppf() -> ModelProto:
    nodes = [conv("a", "x", "p0"), relu("p0", "r")]
    for i, source in enumerate(["r", "p1", "p2"], 1):
        nodes.append(node("MaxPool", [source], [f"p{i}"], f"pool{i}", kernel_shape=[3, 3], pads=[1] * 4))
    cat = node("Concat", ["r", "p1", "p2", "p3"], ["cat"], "cat", axis=1)
    return graph([*nodes, cat], last="cat", wide=4 * WIDTH)


def neck() -> ModelProto:
    """Upsampled, and concatenated with the features of that size."""
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("b", "ar", "b", strides=[2, 2]), relu("b", "br")]
    nodes += [node("Resize", ["br", "", "scales"], ["up"], "resize", mode="nearest")]
    nodes += [node("Concat", ["up", "ar"], ["cat"], "cat", axis=1)]
    scales = np.array([1, 1, 2, 2], np.float32)
    return graph(nodes, last="cat", wide=2 * WIDTH, scales=scales)


def split() -> ModelProto:
    """YOLOv8's C2f: one half passes through a bottleneck, and all parts are concatenated."""
    half = WIDTH // 2
    nodes = [conv("a", "x", "a"), *silu("a", "as"), node("Split", ["as", "sizes"], ["s0", "s1"], "split", axis=1)]
    nodes += [conv("b", "s1", "b"), *silu("b", "bs"), node("Add", ["s1", "bs"], ["sum"], "add")]
    nodes += [node("Concat", ["s0", "s1", "sum"], ["cat"], "cat", axis=1)]
    return graph(nodes, last="cat", wide=3 * half, sizes=_i64(half, half), **weights("b", half, half))


def focus() -> ModelProto:
    """YOLOX's first layer: the image's four phases side by side."""
    nodes = []
    for i in range(4):
        start, end = _i64(i // 2, i % 2), _i64(1000, 1000)
        nodes += [node("Constant", [], [f"start{i}"], value_ints=start.tolist())]
        nodes += [node("Constant", [], [f"end{i}"], value_ints=end.tolist())]
        nodes += [node("Slice", ["x", f"start{i}", f"end{i}", "axes", "steps"], [f"part{i}"], f"slice{i}")]
    nodes += [node("Concat", [f"part{i}" for i in range(4)], ["cat"], "cat", axis=1)]
    return graph(nodes, last="cat", wide=4 * WIDTH, axes=_i64(2, 3), steps=_i64(2, 2))


def gemm() -> ModelProto:
    """Two fully connected layers, the second with its weight transposed, and a head."""
    nodes = [
        node("Gemm", ["x", "a.w", "a.b"], ["a"], "a"),
        relu("a", "ar"),
        node("Gemm", ["ar", "b.w", "b.b"], ["b"], "b", transB=1),
        relu("b", "br"),
        node("MatMul", ["br", "c.w"], ["c"], "c"),
        relu("c", "cr"),
        node("Gemm", ["cr", "head.w"], ["y"], "head"),
    ]
    named = {f"{name}.w": random(16, 16, seed=i) for i, name in enumerate(("a", "b", "c", "head"))}
    return model(nodes, {**named, "a.b": random(16), "b.b": random(16, seed=9)}, (4, 16))


def distances() -> ModelProto:
    """A head with Distribution Focal Loss: 4 sides of 4 bins each, decoded by Softmax and a fixed convolution."""
    nodes = [conv("a", "x", "a"), relu("a", "ar"), conv("next", "ar", "n"), relu("n", "nr")]
    nodes += [node("Conv", ["nr", "box.w"], ["bins"], "box"), node("Conv", ["nr", "class.w"], ["logits"], "class")]
    nodes += [node("Reshape", ["bins", "shape"], ["sides"]), node("Transpose", ["sides"], ["t"], perm=[0, 2, 1, 3])]
    nodes += [node("Softmax", ["t"], ["soft"], axis=1), node("Conv", ["soft", "dfl.w"], ["length"], "dfl")]
    nodes += [node("Reshape", ["length", "flat"], ["boxes"]), node("Mul", ["boxes", "stride"], ["scaled"])]
    nodes += [node("Reshape", ["logits", "rows"], ["l"]), node("Sigmoid", ["l"], ["scores"])]
    nodes += [node("Concat", ["scaled", "scores"], ["y"], axis=1)]
    tensors: dict[str, Array] = {**weights("a"), **weights("next"), "shape": _i64(1, 4, 4, 16), "flat": _i64(1, 4, 16)}
    tensors |= {"box.w": random(16, WIDTH, 1, 1), "class.w": random(2, WIDTH, 1, 1, seed=1), "rows": _i64(1, 2, 16)}
    tensors |= {"dfl.w": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1), "stride": np.array(8, np.float32)}
    return model(nodes, tensors, (1, WIDTH, 4, 4))


PATTERNS: dict[str, Callable[[], ModelProto]] = {
    network_model.__name__: network_model
    for network_model in (
        *(residual, residual_silu, projected, concat, concat_of_concat, silu_chain, hard_swish, shared, depthwise),
        *(transposed, sppf, neck, split, focus, gemm, distances),
    )
}
