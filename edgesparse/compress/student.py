"""The student of a distillation: what it differs in, ReLU in place of smooth activations, and what it has in common."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper

from edgesparse.compress.editor import Editor
from edgesparse.errors import ModelError
from edgesparse.model.layers import layer_name
from edgesparse.model.threads import blas_on_one_core
from edgesparse.model.wiring import Array, Wiring, attribute
from edgesparse.progress import Progress
from edgesparse.sparsity.rebuild import FitData, States, rebuild
from edgesparse.sparsity.swapped import replaced

FEATURES = 40
"""The most tensors inside the networks that a training compares."""
FITTED = 128
"""The most images that layers are refitted on where only ReLU replaced activations."""
POSITIONS = 200_000
"""The most positions of a map that a layer is refitted on."""
METHOD = "2"
"""Part of the key of refitted layers. Increase it if the method changes: layers of another method are not reused."""


@dataclass(frozen=True)
class StudentOptions:
    """How the student differs from the teacher.

    `relu` and `sparse`: in layers with this share (0 to 1) of the multiply-accumulates of all layers that can be 2:4,
    as `prune` takes shares, ReLU replaces a smooth activation behind the layer, and the layer becomes 2:4; `relu` 1:
    ReLU everywhere. `int8`: weights and activations are rounded.

    `minutes`, `steps`, `batch` and `rate` (learning rate, relative to the weights) describe the training; None for what
    suits the machine that trains.
    """

    relu: float = 0.0
    sparse: float = 0.0
    int8: bool = False
    minutes: float = 10.0
    steps: int = 1_000_000
    batch: int | None = None
    rate: float | None = None


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
    student: ModelProto, data: FitData, folder: Path, progress: Progress, names: Collection[str] = ()
) -> ModelProto:
    """Return `student` with the layers `names` 2:4, and layers refitted on `data`.

    Layers stored in `folder` are not fitted again. Raises what `rebuild` raises.
    """
    state = States(folder, student, data, METHOD).of(",".join(sorted(names)))
    with blas_on_one_core():
        return rebuild(student, names, data, state, progress)[0]


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


def shared_features(
    teacher: ModelProto,
    student: ModelProto,
    maps: Collection[str],
    most: int = FEATURES,
    leave_out: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """Return at most that many tensors inside the networks, spread over the depth, which both have in the same shape,
    and those of them that ReLU computes in the student, in place of another activation.

    These equal the teacher's but for a constant per channel (`sparsity.swapped`). The others are outputs of plain
    convolutions. `leave_out`: outputs of layers and activations that have another scale in the student.
    """
    first, second = Editor(teacher, copy=False), Editor(student, copy=False)
    behind = _before(first, maps)
    pairs = []
    for node in first.graph.node:
        name = node.output[0]
        if node.op_type != "Conv" or attribute(node, "group", 1) > 1 or name in maps or name not in behind:
            continue
        if first.shape(name) is None or first.shape(name) != second.shape(name):
            continue
        swapped = replaced(first.wiring, second.wiring, name) is not None
        after = next((reader.output[0] for reader in second.wiring.consumers[name]), name)
        if name not in leave_out and after not in leave_out:
            pairs.append((after if swapped else name, swapped))
    places: Array = np.unique(np.linspace(0, len(pairs) - 1, most).round().astype(int)) if pairs else np.array([], int)
    chosen = [pairs[i] for i in places]
    return [name for name, _ in chosen], [name for name, swapped in chosen if swapped]


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
