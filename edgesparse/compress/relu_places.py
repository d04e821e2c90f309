"""Where ReLU may replace a smooth activation: what it gains, and what each one alone changes, before any training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgesparse.compress.cost import sparse_gains
from edgesparse.compress.editor import Editor
from edgesparse.compress.student import smooth_source, with_relu
from edgesparse.errors import ModelError
from edgesparse.model import activations
from edgesparse.model.activations import Batches, stream
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import Read, ReferenceOutputs
from edgesparse.model.wiring import Array, Wiring
from edgesparse.predict.boards import Board
from edgesparse.progress import Progress
from edgesparse.sparsity.activated import Activation
from edgesparse.sparsity.inspect import inspect
from edgesparse.sparsity.rebuild import FitData, States
from edgesparse.sparsity.swapped import Single, line_to, smooth_function, spread

COMPARED = 24
"""The most batches on which it is measured what ReLU changes."""
METHOD = "1"
"""Part of the key of stored measurements. Increase it if the method changes."""


def places(model: ModelProto) -> dict[str, Activation]:
    """Return the tensors that SiLU or HardSwish alone reads, with this activation: ReLU may replace it."""
    wiring = Wiring(model.graph)
    names = [name for node in model.graph.node if (name := smooth_source(wiring, node)) is not None]
    return {name: function for name in names if (function := smooth_function(wiring, name)) is not None}


def behind_layers(model: ModelProto) -> dict[str, str]:
    """Return, for each layer with SiLU or HardSwish behind it, the tensor between both."""
    producer = Wiring(model.graph).producer
    return {layer_name(producer[name]): name for name in places(model) if name in producer}


def with_relu_at(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy of `model` in which ReLU replaces the activations that read `names`; without those that are not
    there, since their layers were removed. It is `model` itself if none is there.
    """
    left = places(model).keys() & set(names)
    return with_relu(model, left) if left else model


def relu_gains(model: ModelProto, board: Board, precision: str) -> dict[str, float]:
    """Return the milliseconds that 2:4 saves in each layer where only ReLU behind it makes a sparse kernel likely.

    That is all that ReLU gains: an engine computes SiLU, too, in the layer's kernel. Raises what `cost` raises.
    """
    behind = behind_layers(model)
    gains = sparse_gains(with_relu_at(model, list(behind.values())), board, precision)
    before = sparse_gains(model, board, precision)
    return {name: ms for name, ms in gains.items() if name in behind and name not in before}


def choose(model: ModelProto, changes: Mapping[str, float], share: float, needed: Collection[str] = ()) -> list[str]:
    """Return the tensors whose activation ReLU replaces: behind layers that have `share` (0 to 1) of the
    multiply-accumulates of all layers that can be 2:4, since only these gain a sparse INT8 kernel.

    `changes`: what each replacement changes (`measure`). After those in `needed`, those come first that change the
    outputs least for their work. Raises ModelError if there are none.
    """
    producer = Wiring(model.graph).producer
    eligible = {layer.name: layer.macs or 0 for layer in inspect(model).eligible}
    layers = {name: layer_name(producer[name]) for name in changes if name in producer}
    macs = {name: eligible[layer] for name, layer in layers.items() if layer in eligible}
    ranked = sorted(macs, key=lambda name: (name not in needed, changes[name] / max(macs[name], 1), name))
    missing, chosen = share * sum(eligible.values()), list[str]()
    for name in ranked:
        if missing <= 0:
            break
        chosen.append(name)
        missing -= macs[name]
    if not chosen:
        raise ModelError("no layer that can be 2:4 has SiLU or HardSwish behind it: pass --relu without a number")
    return chosen


def measure(
    model: ModelProto,
    batches: Batches,
    read: Read | None,
    folder: Path,
    progress: Progress,
    only: Collection[str] | None = None,
) -> dict[str, float]:
    """Return, for each of `places` (or those in `only`), how ReLU there alone changes the outputs of `model`, as a
    share of their variance.

    ReLU reads the line that comes closest (`swapped`), and the constant that is left over is added behind it, as the
    layers behind would learn to do. Measured on at most COMPARED of `batches`. `read` is what `ReferenceOutputs`
    compares. Measurements that are stored in `folder` are not repeated.
    """
    functions, batches = places(model), activations.spread(batches, COMPARED)
    names = [name for name in functions if only is None or name in only]
    state = States(folder, model, FitData(batches), METHOD).of("relu-places")
    numbers = {name: number for number, name in enumerate(functions)}
    outputs: ReferenceOutputs | None = None
    samples: dict[str, Single] = {}
    changes: dict[str, float] = {}
    for done, name in enumerate(names):
        progress("choosing where ReLU goes", done, len(names))
        saved = state.get(f"alone-{numbers[name]}")
        if saved is None:
            if outputs is None:
                outputs, samples = ReferenceOutputs(model, batches, read), _samples(model, batches, names)
            changed = _replaced(model, name, functions[name], samples[name])
            saved = {"change": np.array(outputs.change(changed))}
            state.put(f"alone-{numbers[name]}", saved)
        changes[name] = float(saved["change"])
    return changes


def _samples(model: ModelProto, batches: Batches, names: Sequence[str]) -> dict[str, Single]:
    """Return values [positions, channels] of each tensor."""
    count = sum(1 for _ in batches())
    some: dict[str, list[Array]] = {name: [] for name in names}
    for values in stream(model, batches, names):
        for name, parts in some.items():
            rows = np.moveaxis(values[name], 1, -1).reshape(-1, values[name].shape[1])
            parts.append(spread(rows, count))
    return {name: np.concatenate(parts).astype(np.float32) for name, parts in some.items()}


def _replaced(model: ModelProto, name: str, function: Activation, outputs: Single) -> ModelProto:
    """Return a copy of `model` in which ReLU of a line replaces the activation that reads the tensor `name`, and a
    constant is added behind it.
    """
    line = line_to(function, outputs)
    rest = (function(outputs) - np.maximum(line.of(outputs), 0)).mean(0)
    editor = Editor(model)
    (node,) = (each for each in editor.graph.node if smooth_source(editor.wiring, each) == name)
    shape = (1, -1, *[1] * (len(editor.known[name]) - 2))
    scale, shift, constant = (editor.store(part.reshape(shape), name) for part in (line.scale, line.shift, rest))
    last = name
    for operator, inputs in (("Mul", [scale]), ("Add", [shift]), ("Relu", []), ("Add", [constant])):
        last = editor.insert(editor.node(operator, [last, *inputs], name), node)
    editor.redirect(node.output[0], last)
    editor.tidy()
    return editor.model
