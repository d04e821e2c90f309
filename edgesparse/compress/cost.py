"""What a network is predicted to cost on a board: the measure by which a rewrite is kept or dropped.

The prediction of `predict`, and what TensorRT does to some nodes: a Concat costs nothing where its inputs are whole
blocks of channels, since they are written in place; else each input is copied. A Split copies each output. A
convolution of the image has kernels of its own, which need no whole block of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto

from edgesparse.model.layers import layer_name
from edgesparse.model.shapes import shapes
from edgesparse.model.wiring import Shape, attribute
from edgesparse.predict.boards import Board, fitted
from edgesparse.predict.fusion import Work, dense_layers
from edgesparse.predict.roofline import predict

BLOCK = 32
"""Channels that are stored side by side in the layouts of the fastest INT8 kernels, and as a multiple of FP16's."""

IMAGE_CHANNELS = 4
"""Of the layout that kernels for the first layer read: three colors and a zero."""


@dataclass(frozen=True)
class Cost:
    """`kernels`: what an engine launches; `ms`: predicted latency; `products_ms`: of the products alone.

    The products are counted in whole blocks of channels.
    """

    kernels: int
    ms: float
    products_ms: float

    @property
    def weighed(self) -> float:
        """The prediction, and the products once more: it counts whole tiles, in which added products seem free."""
        return self.ms + self.products_ms


def cost(model: ModelProto, board: Board, precision: str) -> Cost:
    """Raises ModelError where a shape stays open."""
    known = shapes(model, trusted=True)
    works = tuple(_with_copies(model, dense_layers(model, known), known))
    rate = board.rate(precision, False) * fitted().math
    seconds = sum(_products(work) for work in works) / rate
    return Cost(len(works), predict(works, board, precision).ms, seconds * 1e3)


def _with_copies(model: ModelProto, works: tuple[Work, ...], known: Mapping[str, Shape]) -> Iterator[Work]:
    """The layers, with those of a Concat or Split replaced by the copies that an engine makes for them."""
    nodes = {layer_name(node): node for node in model.graph.node if node.op_type in ("Concat", "Split")}
    for work in map(_packed, works):
        node = nodes.get(work.name) if work.kind == "move" else None
        copies = 1 if node is None else _copies(node, known)
        for _ in range(copies):
            yield replace(work, reads=-(-work.reads // copies), writes=-(-work.writes // copies))


def _packed(work: Work) -> Work:
    """The first layer reads IMAGE_CHANNELS for each position of its kernel side by side, rather than a block each."""
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
