"""The student of a distillation: the teacher with ReLU instead of smooth activations, and some layers 2:4."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from edgesparse.compress.editor import Editor
from edgesparse.errors import ModelError
from edgesparse.model.activations import Batches
from edgesparse.model.layers import layer_name
from edgesparse.model.threads import blas_on_one_core
from edgesparse.model.weights import weight_of
from edgesparse.model.wiring import Array, Wiring, attribute
from edgesparse.progress import Progress
from edgesparse.sparsity import mask
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.rebuild import FitData, States, rebuild

FEATURES = 40
"""The most tensors inside the networks that a training compares."""
FITTED = 128
"""The most images that layers are refitted on."""
POSITIONS = 200_000
"""The most positions of a map that a layer is refitted on."""
METHOD = "1"
"""Part of the key of refitted layers. Increase it if the method changes: layers of another method are not reused."""


def with_relu(model: ModelProto, only: Collection[str] | None = None) -> ModelProto:
    """Return a copy with Relu in place of each x * sigmoid(x) and HardSwish, or of those that read a tensor in `only`.

    Raises ModelError if there are none.
    """
    editor = Editor(model)
    replaced = False
    for node in list(editor.graph.node):
        source = smooth_source(editor.wiring, node)
        if source is not None and (only is None or source in only):
            node.CopyFrom(helper.make_node("Relu", [source], list(node.output), layer_name(node)))
            replaced = True
    if not replaced:
        raise ModelError("the model has no SiLU and no HardSwish: nothing for ReLU to replace")
    editor.changed()
    editor.tidy()
    return editor.model


def refitted(
    student: ModelProto,
    smooth: ModelProto,
    batches: Batches,
    objects: Iterable[NDArray[np.float32]],
    folder: Path,
    progress: Progress,
) -> ModelProto:
    """Return `student` with its layers refitted to `smooth`, from which it differs in that ReLU replaced activations.

    `batches`: at most FITTED. `objects`: for each of them, where objects are, [1, height, width] from 0 to 1. Layers
    stored in `folder` are not fitted again. Raises what `rebuild` raises.
    """
    progress("finding objects", 0, 0)
    data = FitData(batches, PositionWeights.of(objects), original=smooth, positions=POSITIONS)
    state = States(folder, student, data, METHOD).of("relu")
    with blas_on_one_core():
        return rebuild(student, (), data, state, progress)[0]


def smooth_source(wiring: Wiring, node: NodeProto) -> str | None:
    """The tensor whose SiLU or HardSwish `node` computes; None for other nodes."""
    if node.op_type == "HardSwish":
        return str(node.input[0])
    if node.op_type != "Mul":
        return None
    for x, other in (node.input, node.input[::-1]):
        gate = wiring.producer.get(other)
        if gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == x:
            return str(x)
    return None


def with_2to4(model: ModelProto, share: float, keep: Collection[str] = ()) -> ModelProto:
    """Return a copy in which layers with `share` of all multiply-accumulates (0 to 1), or all eligible ones, are 2:4.

    Weights are chosen by magnitude; layers that lose the least of it come first. Layers in `keep` stay dense.
    """
    report = inspect(model)
    missing = share * sum(layer.macs or 0 for layer in report.layers)
    copy = ModelProto()
    copy.CopyFrom(model)
    wiring = Wiring(copy.graph)
    nodes = {layer_name(node): node for node in copy.graph.node}
    ranked = []
    for layer in report.layers[1:]:
        if layer.eligible and layer.name not in keep and layer.op == "Conv":
            weight = weight_of(wiring, nodes[layer.name])
            stays = mask.mask_2to4(weight.values, weight.axis)
            kept = float((np.abs(weight.values) * stays).sum() / max(float(np.abs(weight.values).sum()), 1e-12))
            ranked.append((kept, layer.macs or 0, weight.source, weight.stored * weight.in_storage(stays)))
    for _, macs, source, values in sorted(ranked, key=lambda entry: -entry[0]):
        if missing <= 0:
            break
        wiring.store(source, values.astype(np.float32, copy=False))
        missing -= macs
    return copy


def shared_features(teacher: ModelProto, student: ModelProto, maps: Collection[str], most: int = FEATURES) -> list[str]:
    """Return outputs of at most that many plain convolutions, spread over the depth, which both networks have in the
    same shape.
    """
    first, second = Editor(teacher, copy=False), Editor(student, copy=False)
    names = [
        node.output[0]
        for node in first.graph.node
        if node.op_type == "Conv"
        and attribute(node, "group", 1) == 1
        and node.output[0] not in maps
        and first.shape(node.output[0]) is not None
        and first.shape(node.output[0]) == second.shape(node.output[0])
    ]
    behind = _before(first, maps)
    names = [name for name in names if name in behind]
    places: Array = np.unique(np.linspace(0, len(names) - 1, most).round().astype(int)) if names else np.array([], int)
    return [names[i] for i in places]


def _before(editor: Editor, names: Collection[str]) -> set[str]:
    """Every tensor from which `names` are computed."""
    seen, todo = set[str](), list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            node = editor.wiring.producer.get(name)
            todo.extend(node.input if node is not None else ())
    return seen
