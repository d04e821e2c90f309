"""Which layers to prune: how much each one alone changes what the network puts out, against the products it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from onnx import ModelProto

from edgesparse.model.activations import Batches, Tape, stride
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import Outputs, Read
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import Layer
from edgesparse.sparsity.places import Places
from edgesparse.sparsity.rebuild import State, advance, fit_layer, refittable

IMAGES = 40
"""Batches, evenly over all, that a layer is fitted on to learn how sensitive it is and that the outputs are seen on."""


@dataclass(frozen=True)
class Choice:
    """`change` is what pruning this layer alone does to the outputs, as a share of their variance."""

    name: str
    macs: int
    change: float


def rank(
    model: ModelProto,
    layers: Sequence[Layer],
    gains: Mapping[str, float],
    batches: Batches,
    state: State,
    progress: Progress,
    places: Places | None = None,
    read: Read | None = None,
) -> list[Choice]:
    """`layers`, those first that change the outputs least for what they gain by 2:4: `gains`, above nought, by name."""
    macs = {layer.name: layer.macs or 0 for layer in layers}
    changes: dict[str, float] = {}
    step = stride(batches, IMAGES)
    some, places = lambda: islice(iter(batches()), 0, None, step), places and places.every(step)
    outputs = Outputs(model, some, read)
    with state.scratch() as folder:
        copy = ModelProto()
        copy.CopyFrom(model)
        tape = Tape(copy, folder)
        tape.load(some)
        for at, node in enumerate(tape.nodes):
            if layer_name(node) in macs:
                progress("measuring sensitivity", len(changes), len(macs))
                changes[layer_name(node)] = _alone(tape, at, outputs, state, places)
    ranked = (Choice(name, macs[name], change) for name, change in changes.items())
    return sorted(ranked, key=lambda choice: choice.change / gains[choice.name])


def _alone(tape: Tape, at: int, outputs: Outputs, state: State, places: Places | None) -> float:
    """What pruning the layer at node `at` alone changes: only what lies behind it runs again."""
    work = refittable(tape, tape.nodes[at], True)
    assert work is not None
    advance(tape, tape, at, work)
    held = state.get(f"alone-{at}")
    if held is None:
        fitted = fit_layer(tape, tape, work, True, places, search=False)
        tape.wiring.store(work.weight.source, work.stored(fitted["weight"]))
        held = {"change": np.array(outputs.apart(tape.rest(at, outputs.names)))}
        tape.wiring.store(work.weight.source, work.weight.stored)
        state.put(f"alone-{at}", held)
    return float(held["change"])
