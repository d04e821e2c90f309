"""Groups a graph into the layers that an engine runs: a convolution with its bias, activation and addition is one.

The rules follow TensorRT's developer guide ("Types of Fusions"): a convolution or matrix product is fused with the
pointwise operations after it, and chains of pointwise operations with each other; shape changes cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from onnx import ModelProto, NodeProto

from edgesparse.errors import ModelError
from edgesparse.model.layers import POINTWISE, layer_name, multiplies
from edgesparse.model.shapes import shapes
from edgesparse.model.weights import LAYERS
from edgesparse.model.wiring import Shape, Wiring, attribute
from edgesparse.sparsity.inspect import InspectedLayer, inspect

FREE = frozenset(
    ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear")
)


@dataclass(frozen=True)
class Work:
    """The work of one fused layer per run.

    `kind`: `tensor` (runs on tensor cores), `cuda` (depthwise and other narrow products), or `move` (no products).
    `rows` x `columns`: the output as a matrix (positions x channels); `depth`: products summed per output value,
    over `taps` positions of the convolution's kernel.
    `weights`, `reads` and `writes` count values, not bytes. `sparse`: whether it may run 2:4; `sparse_int8`: the same
    in INT8.
    """

    name: str
    kind: str
    rows: int = 0
    columns: int = 0
    depth: int = 0
    weights: int = 0
    reads: int = 0
    writes: int = 0
    sparse: bool = False
    sparse_int8: bool = False
    taps: int = 1

    @property
    def macs(self) -> int:
        return self.rows * self.columns * self.depth

    @property
    def channels(self) -> int:
        """Input channels summed over per tap."""
        return -(-self.depth // self.taps)


@dataclass
class _Group:
    """Nodes that run as one layer; `main` is the node that multiplies or moves, if any."""

    nodes: list[NodeProto] = field(default_factory=list)
    main: NodeProto | None = None

    @property
    def takes_pointwise(self) -> bool:
        return self.main is None or self.main.op_type in LAYERS


def fused_layers(model: ModelProto, inputs: Mapping[str, Sequence[int]] | None = None) -> tuple[Work, ...]:
    """Return the layers of `model` as an engine runs them, in order; `inputs` fixes dynamic input shapes by name.
    Raises ModelError if a shape that determines the work remains unknown.
    """
    layers = {layer.name: layer for layer in inspect(model, inputs).layers}
    works = dense_layers(model, shapes(model, inputs))
    return tuple(_with_sparsity(work, layers.get(work.name)) for work in works)


def dense_layers(model: ModelProto, known: Mapping[str, Shape]) -> tuple[Work, ...]:
    """As `fused_layers`, without the question which layers may run 2:4; `known`: the shape of every tensor."""
    wiring = Wiring(model.graph)
    return tuple(_work(group, wiring, known) for group in _groups(wiring))


def _with_sparsity(work: Work, layer: InspectedLayer | None) -> Work:
    if layer is None or work.kind == "move":
        return work
    int8 = layer.eligible and not any(doubt.startswith("INT8") for doubt in layer.doubts)
    return replace(work, sparse=layer.eligible, sparse_int8=int8)


def _groups(wiring: Wiring) -> list[_Group]:
    """Return the layers, each with all its nodes that cost time."""
    groups: list[_Group] = []
    group_of: dict[str, int] = {}
    host: set[str] = set()
    for node in wiring.graph.node:
        sources = [name for name in node.input if name and not wiring.is_constant(name) and name not in host]
        if node.op_type == "Shape" or not sources:
            host.update(node.output)
            continue
        if node.op_type in FREE:
            group_of.update((out, group_of[sources[0]]) for out in node.output if sources[0] in group_of)
            continue
        place = max((group_of[name] for name in sources if name in group_of), default=-1)
        if node.op_type not in POINTWISE or place < 0 or not _joins(groups[place], sources, group_of, place, wiring):
            groups.append(_Group())
            place = len(groups) - 1
        groups[place].nodes.append(node)
        if node.op_type not in POINTWISE:
            groups[place].main = node
        group_of.update((out, place) for out in node.output)
    return groups


def _joins(group: _Group, sources: list[str], group_of: dict[str, int], place: int, wiring: Wiring) -> bool:
    """Whether a pointwise node with these `sources` runs inside `group`: no other kind of node reads them."""
    between = [name for name in sources if group_of.get(name) == place]
    readers = (reader.op_type for name in between for reader in wiring.consumers[name])
    return group.takes_pointwise and all(op in POINTWISE for op in readers)


def _work(group: _Group, wiring: Wiring, known: Mapping[str, Shape]) -> Work:
    inside = {out for node in group.nodes for out in node.output}
    read = {name for node in group.nodes for name in node.input if name and name not in inside}
    read = {name for name in read if not wiring.is_constant(name)}
    written = {
        name
        for name in inside
        if name in wiring.outputs or any(reader not in group.nodes for reader in wiring.consumers[name])
    }
    main = group.main or group.nodes[0]
    reads = sum(_size(wiring, known, name) for name in read)
    writes = sum(_size(wiring, known, name) for name in written)
    if group.main is None or main.op_type not in LAYERS:
        return Work(layer_name(main), "move", reads=reads, writes=writes)
    name, macs = layer_name(main), multiplies(main, known)
    if macs is None:
        raise ModelError(f"{name} has an open shape: set the inputs' shapes, e.g. --shape images=1x3x640x640")
    out, columns = _size(wiring, known, main.output[0]), _columns(main, known)
    shape = _weight_shape(wiring, main, known)
    wide = main.op_type not in ("Conv", "ConvTranspose") or attribute(main, "group", 1) == 1
    return Work(
        name=name,
        kind="tensor" if wide else "cuda",
        rows=out // columns,
        columns=columns,
        depth=macs // out,
        weights=prod(shape) if shape else 0,
        reads=reads,
        writes=writes,
        taps=prod(shape[2:]) if main.op_type == "Conv" else 1,
    )


def _weight_shape(wiring: Wiring, node: NodeProto, known: Mapping[str, Shape]) -> tuple[int, ...]:
    """The shape of the weights as the layer sees them; empty if it multiplies two activations."""
    places = (1,) if node.op_type in ("Conv", "ConvTranspose") else (1, 0)
    stored = [known.get(node.input[i], ()) for i in places if wiring.is_constant(node.input[i])]
    return tuple(n or 0 for n in stored[0]) if stored else ()


def _columns(node: NodeProto, known: Mapping[str, Shape]) -> int:
    """Return the output channels: axis 1 for a convolution, the last axis for a matrix product."""
    shape = known[node.output[0]]
    return (shape[1] if node.op_type in ("Conv", "ConvTranspose") else shape[-1]) or 1


def _size(wiring: Wiring, known: Mapping[str, Shape], name: str) -> int:
    """Return a tensor's number of values; if its shape is unknown, that of the largest tensor it is computed from."""
    sizes, todo, visited = [0], [name], set[str]()
    while todo:
        at = todo.pop()
        shape = known.get(at, (None,))
        counts = [n for n in shape if n is not None]
        if len(counts) == len(shape):
            sizes.append(prod(counts))
        elif at in wiring.producer and at not in visited:
            visited.add(at)
            todo.extend(i for i in wiring.producer[at].input if i)
    return max(sizes)
