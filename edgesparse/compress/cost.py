"""The predicted cost of a network on a board, by which a rewrite is kept or dropped.

It is the prediction of `predict`, adjusted for what TensorRT does with some nodes. A Concat costs nothing if its inputs
are whole blocks of channels, since they are written in place; otherwise each input is copied. A Split copies each
output. The convolution that reads the image has special kernels, which do not need whole blocks of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto

from edgesparse.model.layers import layer_name
from edgesparse.model.shapes import shapes
from edgesparse.model.weights import LAYERS
from edgesparse.model.wiring import Shape, attribute
from edgesparse.predict.boards import Board, fitted
from edgesparse.predict.fusion import Work, dense_layers, fused_layers
from edgesparse.predict.roofline import predict

BLOCK = 32
"""Channels that the fastest INT8 kernels store side by side; also a multiple of what FP16 kernels store."""

IMAGE_CHANNELS = 4
"""Channels in the layout that kernels for the first layer read: three colors and a zero."""


@dataclass(frozen=True)
class Cost:
    """`kernels`: how many an engine launches; `ms`: predicted latency; `products_ms`: latency of the products alone.

    Products are counted in whole blocks of channels.
    """

    kernels: int
    ms: float
    products_ms: float

    @property
    def weighed(self) -> float:
        """`ms` plus `products_ms`: `ms` counts whole tiles, so additional products may seem to cost nothing."""
        return self.ms + self.products_ms


def cost(model: ModelProto, board: Board, precision: str) -> Cost:
    """Return the predicted cost. Raises ModelError if a shape is not static."""
    known = shapes(model, trusted=True)
    works = tuple(_with_copies(model, dense_layers(model, known), known))
    rate = board.rate(precision, False) * fitted().math
    seconds = sum(_products(work) for work in works) / rate
    return Cost(len(works), predict(works, board, precision).ms, seconds * 1e3)


def layer_ms(model: ModelProto, board: Board, precision: str) -> dict[str, float]:
    """Return the predicted milliseconds of each layer, by name. Raises what `cost` raises."""
    known, totals = shapes(model, trusted=True), dict[str, float]()
    for time in predict(tuple(_with_copies(model, dense_layers(model, known), known)), board, precision).layers:
        totals[time.name] = totals.get(time.name, 0.0) + time.ms
    return totals


def int8_gains(model: ModelProto, board: Board) -> dict[str, float]:
    """Return the milliseconds that INT8 saves in each layer, by name, compared with FP16 before other INT8 layers.

    An INT8 kernel writes what an FP16 layer reads; an FP16 layer before INT8 ones costs a kernel that converts its
    output. Raises what `cost` raises.
    """
    half, byte = (layer_ms(model, board, precision) for precision in ("fp16", "int8"))
    conversion = 1e3 * fitted().layer_clocks / (board.gpu_mhz * 1e6)
    inner = _before_others(model)
    return {name: half[name] - ms + (conversion if name in inner else 0.0) for name, ms in byte.items()}


def sparse_gains(model: ModelProto, board: Board, precision: str) -> dict[str, float]:
    """Return the milliseconds that 2:4 saves in each layer where TensorRT is likely to run it, by name.

    Raises what `cost` raises.
    """
    works = fused_layers(model)
    dense, sparse = predict(works, board, precision), predict(works, board, precision, "likely")
    pairs = zip(dense.layers, sparse.layers, strict=True)
    return {before.name: before.ms - after.ms for before, after in pairs if before.ms > after.ms}


def _before_others(model: ModelProto) -> set[str]:
    """The layers whose output leads to another one."""
    leading, names = set[str](), set[str]()
    for node in reversed(model.graph.node):
        leads = not leading.isdisjoint(node.output)
        if node.op_type in LAYERS:
            names.update({layer_name(node)} if leads else ())
            leads = True
        leading.update(node.input if leads else ())
    return names


def _with_copies(model: ModelProto, works: tuple[Work, ...], known: Mapping[str, Shape]) -> Iterator[Work]:
    """The layers, with each Concat and Split replaced by the copies that an engine makes for it."""
    nodes = {layer_name(node): node for node in model.graph.node if node.op_type in ("Concat", "Split")}
    for work in map(_packed, works):
        node = nodes.get(work.name) if work.kind == "move" else None
        copies = 1 if node is None else _copies(node, known)
        for _ in range(copies):
            yield replace(work, reads=-(-work.reads // copies), writes=-(-work.writes // copies))


def _packed(work: Work) -> Work:
    """The first layer reads IMAGE_CHANNELS per kernel position, side by side, instead of a block per position."""
    if work.kind != "tensor" or work.channels > IMAGE_CHANNELS:
        return work
    return replace(work, taps=1, depth=work.taps * IMAGE_CHANNELS)


def _copies(node: NodeProto, known: Mapping[str, Shape]) -> int:
    if node.op_type == "Split":
        return len(node.output)
    channels = [known.get(name, (0, 0))[1] or 0 for name in node.input]
    in_place = attribute(node, "axis") in (1, -3) and not any(count % BLOCK for count in channels)
    return 0 if in_place else len(node.input)


def _products(work: Work) -> int:
    if work.kind != "tensor":
        return 0
    columns, channels = (-(-count // BLOCK) * BLOCK for count in (work.columns, work.channels))
    return work.rows * columns * work.taps * channels
