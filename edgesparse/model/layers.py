"""The layers of a graph that multiply: their nodes, names and cost."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from math import prod

from onnx import NodeProto

from edgesparse.errors import ModelError
from edgesparse.model.weights import LAYERS, Weight, readers
from edgesparse.model.wiring import Shape, Wiring, attribute, reads

RELU = ("Relu", "Clip")
SMOOTH = {"SiLU", "Sigmoid", "HardSigmoid", "HardSwish", "Softplus", "Tanh", "Erf", "Gelu", "Elu", "LeakyRelu"}
POINTWISE = frozenset(
    """Add Sub Mul Div Pow Min Max Abs Neg Reciprocal Sqrt Exp Log Floor Ceil Round Where Clip Relu LeakyRelu PRelu Elu
    Selu Sigmoid HardSigmoid HardSwish Tanh Softplus Erf Gelu Mish BatchNormalization""".split()  # noqa: SIM905
)
NOT_FINITE = "weights hold NaN or infinity: export the model again from a sound checkpoint"


SELECTS = ("TopK", "NonMaxSuppression", "NonZero", "ArgMax", "ArgMin", "Unique", "Compress")
"""Operators whose output determines which rows are read later: different weights select different rows."""


def behind_selection(wiring: Wiring) -> dict[str, str]:
    """Return the tensors that depend on the rows picked by an operator in SELECTS, and that operator."""
    behind: dict[str, str] = {}
    for node in wiring.graph.node:
        selects = node.op_type in SELECTS and not all(wiring.is_constant(name) for name in node.input if name)
        cause = node.op_type if selects else next((behind[name] for name in reads(node) if name in behind), None)
        if cause is not None:
            behind.update(dict.fromkeys(node.output, cause))
    return behind


def before_selection(wiring: Wiring) -> list[str]:
    """Return what nodes after a selection read from before it, and outputs not after one; empty without a selection."""
    behind = behind_selection(wiring)
    if not behind:
        return []
    names = dict.fromkeys(name for name in wiring.outputs if name not in behind)
    for node in wiring.graph.node:
        if node.output and not behind.keys().isdisjoint(node.output):
            names.update(dict.fromkeys(name for name in node.input if name and name not in behind))
    return [name for name in names if name in wiring.producer and not wiring.is_constant(name)]


def layer_nodes(wiring: Wiring) -> Iterator[NodeProto]:
    """Yield each node that multiplies an activation with weights or with another activation."""
    return (node for node in wiring.graph.node if node.op_type in LAYERS and not _folds_away(wiring, node))


def layer_name(node: NodeProto) -> str:
    """Return the node's name, or that of its first output if it has none."""
    return node.name or node.output[0]


def require_layers(names: Collection[str], wiring: Wiring) -> None:
    """Raise ModelError for a name that is no layer's."""
    known = [layer_name(node) for node in layer_nodes(wiring)]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise ModelError(f"no layer {name!r} in this model" + (f": did you mean {near[0]!r}?" if near else ""))


def sharers(wiring: Wiring, node: NodeProto, weight: Weight) -> list[NodeProto]:
    """Return other nodes that read the values of the same stored weights as `node`; a Shape does not."""
    return [reader for reader in readers(wiring, weight.source) if reader is not node and reader.op_type != "Shape"]


def multiplies(node: NodeProto, known: Mapping[str, Shape]) -> int | None:
    """Return the multiply-accumulates per run of `node`, from the shapes of its inputs and outputs; None if unknown."""
    first, second = (known.get(name, (None,)) for name in node.input[:2])
    out = known.get(node.output[0], (None,))
    if node.op_type == "Conv":
        sizes = (*out, *second[1:])
    elif node.op_type == "ConvTranspose":
        sizes = (*first, *second[1:])
    else:
        sizes = (*out, first[0 if attribute(node, "transA", 0) else -1])
    counts = [n for n in sizes if n is not None]
    return prod(counts) if len(counts) == len(sizes) else None


def _folds_away(wiring: Wiring, node: NodeProto) -> bool:
    """Whether all inputs of `node` are constant, so that no engine runs it."""
    return all(wiring.is_constant(name) for name in node.input if name)
