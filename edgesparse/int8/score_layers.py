"""The layers behind a detector's confidences, and how to scale and shift what they put in, exactly.

A confidence is the Sigmoid of a layer's output, or of a sum of such outputs. A scale and an offset of what enters the
Sigmoid are a scale of the layer's weights and a change of its bias. Layers are only listed if nothing but confidences
depends on these outputs, so that boxes stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator

from edgesparse.errors import SparsityError
from edgesparse.model.activations import Batches, stream
from edgesparse.model.bias import bias_of, has_bias, set_bias
from edgesparse.model.layers import sharers
from edgesparse.model.unfold import Product
from edgesparse.model.weights import LAYERS, weight_of
from edgesparse.model.wiring import Array, Wiring, attribute

MOVES = frozenset("Concat Flatten Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split())  # noqa: SIM905
PICKS = frozenset("GatherElements GatherND ReduceMax TopK".split())  # noqa: SIM905
"""Operators whose first output has confidences again: some of them, or the highest."""
SELECTIONS = frozenset("Gather Slice Split".split())  # noqa: SIM905
INDICES = frozenset("ArgMax Greater GreaterOrEqual NonMaxSuppression".split())  # noqa: SIM905
EVERY, SCALED, UNCHANGED = -1, -2, -3

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoreLayer:
    """`out`: the layer's output. `classes` [outputs]: the class of each output channel; EVERY if it counts for all
    classes, SCALED if it is one term of a sum and another takes the offset, UNCHANGED if it is no confidence.
    """

    out: str
    classes: Ints


def score_layers(model: ModelProto, batches: Batches, classes: int) -> list[ScoreLayer]:
    """Return the layers behind the confidences of `model`, a detector of `classes` classes.

    Empty if confidences come from something else than a Sigmoid, if boxes depend on them, or if the layers cannot take
    an offset. Shapes are measured on the first of `batches`.
    """
    wiring, listed = Wiring(model.graph), dict[str, Ints]()
    for node in model.graph.node:
        if node.op_type != "Sigmoid" or wiring.is_constant(node.input[0]) or not _only_scores(wiring, node):
            continue
        path = _Path.back_from(wiring, node)
        if path is None or not all(_fits(wiring, layer) for layer in path.layers):
            continue
        marks = path.marks(model, batches)
        by_layer = None if marks is None else _classes(marks, classes)
        if by_layer is not None and not _overlap(listed, by_layer):
            for out, each in by_layer.items():
                listed[out] = np.where(each == UNCHANGED, listed.get(out, each), each)
    known = set(listed)
    for out in listed:
        node = wiring.producer[out]
        shared = {other.output[0] for other in sharers(wiring, node, weight_of(wiring, node))}
        if not shared <= known:
            return []
    return [ScoreLayer(out, each) for out, each in listed.items()]


def mapped(model: ModelProto, layers: Iterable[ScoreLayer], scale: float, offsets: Floats) -> ModelProto:
    """Return a copy of `model` whose confidences are Sigmoid(scale * z + offsets [classes]) instead of Sigmoid(z).

    `layers`: those of `score_layers`, for this model or for the float model that it was made from. Channels for every
    class get the mean offset.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    wiring, done = Wiring(copy.graph), set[str]()
    for layer in layers:
        work = _product(wiring, wiring.producer[layer.out])
        factor = np.where(layer.classes == UNCHANGED, 1.0, scale)
        shift = np.append(offsets, [0, 0, offsets.mean()])[layer.classes]  # UNCHANGED, SCALED and EVERY are its last
        bias = bias_of(wiring, work)
        new = factor * bias + shift
        set_bias(wiring, work, new - bias if work.node.op_type == "MatMul" else new)
        if work.weight.source not in done:
            done.add(work.weight.source)
            wiring.store(work.weight.source, work.stored(work.matrix * factor[:, None]))
    return copy


def _product(wiring: Wiring, node: NodeProto) -> Product:
    left = node.op_type != "Conv" and not wiring.is_constant(node.input[1])
    return Product(node, weight_of(wiring, node), left, attribute(node, "group", 1) if node.op_type == "Conv" else 1)


def _fits(wiring: Wiring, node: NodeProto) -> bool:
    """Whether the layer is float and can take a scale and an offset."""
    try:
        work = _product(wiring, node)
        return node.op_type != "ConvTranspose" and not work.weight.quantized and has_bias(wiring, work)
    except SparsityError:
        return False


def _only_scores(wiring: Wiring, node: NodeProto) -> bool:
    """Whether all that depends on a Sigmoid is confidences, and where they are."""
    todo, seen = [node.output[0]], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for reader in wiring.consumers[name]:
            if reader.op_type == "Mul":
                if not all(_is_score(wiring, each) for each in reader.input):
                    return False
            elif reader.op_type not in MOVES | PICKS | INDICES:
                return False
            if reader.op_type not in INDICES:
                todo += reader.output[:1] if reader.op_type in PICKS else reader.output
    return True


def _is_score(wiring: Wiring, name: str) -> bool:
    node = wiring.producer.get(name)
    while node is not None and node.op_type in MOVES - {"Concat"}:
        node = wiring.producer.get(node.input[0])
    return node is not None and node.op_type in ("Sigmoid", "Softmax")


@dataclass(frozen=True)
class _Path:
    """What leads from layers to a Sigmoid, which reads `end`: between them, values are only moved and added."""

    wiring: Wiring
    end: str
    layers: Sequence[NodeProto]
    beside: Sequence[NodeProto]
    """Nodes that select from the same tensors for something else."""
    others: Sequence[str]
    """Shapes and indices that are computed from the image's size."""

    @classmethod
    def back_from(cls, wiring: Wiring, sigmoid: NodeProto) -> _Path | None:
        """Return None if anything else enters the Sigmoid, or something reads what enters it and does not select."""
        layers, nodes, others = dict[str, NodeProto](), dict[str, NodeProto](), list[str]()
        todo, inside = [sigmoid.input[0]], set[str]()
        while todo:
            name = todo.pop()
            inside.add(name)
            node = wiring.producer.get(name)
            if node is None:
                return None
            if node.output[0] in layers or node.output[0] in nodes:
                continue
            if node.op_type in LAYERS:
                layers[node.output[0]] = node
            elif node.op_type in MOVES or _adds(wiring, node):
                nodes[node.output[0]] = node
                data = list(node.input) if node.op_type in ("Add", "Concat") else node.input[:1]
                todo += [each for each in data if not wiring.is_constant(each)]
                others += [each for each in node.input[len(data) :] if each and not wiring.is_constant(each)]
            else:
                return None
        beside = _beside(wiring, inside, {*nodes, sigmoid.output[0]})
        if beside is None:
            return None
        others += [name for node in beside for name in node.input[1:] if name and not wiring.is_constant(name)]
        return cls(wiring, sigmoid.input[0], list(layers.values()), beside, others)

    def marks(self, model: ModelProto, batches: Batches) -> dict[str, tuple[int, Array]] | None:
        """Return per layer its number of outputs, and which of them, from 1, arrives at each place; 0: none.

        None if what arrives is also selected for something else.
        """
        outs = [layer.output[0] for layer in self.layers]
        values = next(iter(stream(model, lambda: islice(iter(batches()), 1), [*outs, *self.others])))
        evaluator = self._evaluator(model, values)
        zeros = {name: values[name] if name in self.others else np.zeros_like(values[name]) for name in values}
        nothing, marks = evaluator.run(None, zeros), dict[str, tuple[int, Array]]()
        for layer in self.layers:
            out, count = layer.output[0], values[layer.output[0]].shape[_axis(layer)]
            shape = [-1 if axis == _axis(layer) % values[out].ndim else 1 for axis in range(values[out].ndim)]
            numbers = np.arange(1, count + 1, dtype=np.float32).reshape(shape)
            feeds = zeros | {out: np.broadcast_to(numbers, values[out].shape).copy()}
            pairs = zip(evaluator.run(None, feeds), nothing, strict=True)
            here, *elsewhere = (np.rint(each - zero).astype(np.int64) for each, zero in pairs)
            if any(np.isin(each[each != 0], here).any() for each in elsewhere):
                return None
            marks[out] = count, here
        return marks

    def _evaluator(self, model: ModelProto, values: Mapping[str, Array]) -> ReferenceEvaluator:
        ends = [self.end, *(out for node in self.beside for out in node.output)]
        needed, todo = set[str](), list(ends)
        while todo:
            name = todo.pop()
            node = self.wiring.producer.get(name)
            if name not in values and node is not None and node.output[0] not in needed:
                needed.add(node.output[0])
                todo += node.input
        nodes = [node for node in model.graph.node if node.output[0] in needed]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in values.items()
        ]
        read = {name for node in nodes for name in node.input}
        stored = [tensor for tensor in model.graph.initializer if tensor.name in read]
        graph = helper.make_graph(nodes, "scores", inputs, [ValueInfoProto(name=end) for end in ends], stored)
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import))


def _beside(wiring: Wiring, inside: Collection[str], known: Collection[str]) -> list[NodeProto] | None:
    """Return the nodes, other than the `known`, that select from tensors `inside` a path; None if these are outputs, or
    if their values are read otherwise.
    """
    readers = [reader for name in inside for reader in wiring.consumers[name]]
    beside = {node.output[0]: node for node in readers if node.output[0] not in known and node.op_type != "Shape"}
    if not wiring.outputs.isdisjoint(inside) or not all(
        node.op_type in SELECTIONS and node.input[0] in inside for node in beside.values()
    ):
        return None
    return list(beside.values())


def _adds(wiring: Wiring, node: NodeProto) -> bool:
    """Whether the node adds what layers put in, or to a matrix product its bias."""
    if node.op_type != "Add":
        return False
    computed = [name for name in node.input if not wiring.is_constant(name)]
    before = wiring.producer.get(computed[0]) if computed else None
    return len(computed) == 2 or (before is not None and before.op_type == "MatMul")


def _axis(layer: NodeProto) -> int:
    return 1 if layer.op_type == "Conv" else -1


def _classes(marks: Mapping[str, tuple[int, Array]], classes: int) -> dict[str, Ints] | None:
    """Return `ScoreLayer.classes` of each layer; None if its outputs are not one per class, or one for all."""
    listed = dict[str, Ints]()
    for out, (count, places) in marks.items():
        numbers = np.unique(places[places != 0])
        if not len(numbers):
            continue  # moved elsewhere, as a box beside the confidences
        if numbers[0] < 1 or numbers[-1] > count:
            return None
        each = np.full(count, UNCHANGED, np.int64)
        per_class = _by_axis(places, numbers, classes) if classes > 1 else None
        if per_class is not None:
            each[numbers - 1] = per_class
        elif len(numbers) == 1 or classes == 1:
            each[numbers - 1] = EVERY
        else:
            return None
        listed[out] = each
    # of a sum, one term takes the offset: that with classes, if there is one
    taken = np.zeros(1, np.bool_)
    for out in sorted(listed, key=lambda out: bool(listed[out].max() < 0)):
        here = marks[out][1] != 0
        if (here & taken).any():
            if (here & ~taken).any():
                return None
            listed[out][listed[out] != UNCHANGED] = SCALED
        taken = taken | here
    return listed or None


def _overlap(first: Mapping[str, Ints], second: Mapping[str, Ints]) -> bool:
    """Whether both change the same outputs of a layer; slices of its outputs may have a Sigmoid each."""
    shared = first.keys() & second.keys()
    return any(((first[out] != UNCHANGED) & (second[out] != UNCHANGED)).any() for out in shared)


def _by_axis(places: Array, numbers: Ints, classes: int) -> Ints | None:
    """Return the class of each number: its only index along an axis with an entry per class; None without one."""
    for axis in (axis for axis, size in enumerate(places.shape) if size == classes):
        rows = np.moveaxis(places, axis, 0).reshape(classes, -1)
        of = {int(number): at for at in range(classes) for number in np.unique(rows[at][rows[at] != 0])}
        unique = sum(len(np.unique(row[row != 0])) for row in rows)
        if unique == len(numbers) == len(of):
            return np.array([of[int(number)] for number in numbers])
    return None
