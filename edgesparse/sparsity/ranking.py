"""Ranks layers for pruning: how much each one alone changes the model's outputs, relative to the work that it saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
from onnx import ModelProto

from edgesparse.model.activations import Tape, stride
from edgesparse.model.bias import set_bias
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import Read, ReferenceOutputs
from edgesparse.model.unfold import Product
from edgesparse.model.wiring import Array, Wiring
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import InspectedLayer
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.rebuild import FitData, State, advance, fit_layer, refittable

IMAGES = 40
"""Batches, spread evenly over all, on which a layer is fitted and the change of the outputs is measured."""


@dataclass(frozen=True)
class Choice:
    """`change`: how pruning only this layer changes the outputs, as a share of their variance."""

    name: str
    macs: int
    change: float


def rank(
    model: ModelProto,
    gains: Mapping[InspectedLayer, float],
    data: FitData,
    read: Read | None,
    state: State,
    progress: Progress,
) -> list[Choice]:
    """Return the layers of `gains`, starting with those that change the outputs least for what they gain from 2:4.

    A gain is above 0, in any unit. `read` is what `ReferenceOutputs` measures the change on.
    """
    by_name = {layer.name: (layer.macs or 0, gain) for layer, gain in gains.items()}
    changes: dict[str, float] = {}
    step = stride(data.batches, IMAGES)
    some = FitData(lambda: islice(iter(data.batches()), 0, None, step), data.weights and data.weights.every(step))
    outputs = ReferenceOutputs(model, some.batches, read)
    with state.scratch() as folder:
        copy = ModelProto()
        copy.CopyFrom(model)
        tape = Tape(copy, folder)
        tape.load(some.batches)
        for at, node in enumerate(tape.nodes):
            if layer_name(node) in by_name:
                progress("measuring sensitivity", len(changes), len(by_name))
                changes[layer_name(node)] = _alone(tape, at, outputs, state, some.weights)
    ranked = [Choice(name, by_name[name][0], change) for name, change in changes.items()]
    return sorted(ranked, key=lambda choice: choice.change / by_name[choice.name][1])


def _alone(tape: Tape, at: int, outputs: ReferenceOutputs, state: State, weights: PositionWeights | None) -> float:
    """Return what pruning only the layer at node `at` changes: only the nodes after it run again."""
    work = refittable(tape, tape.nodes[at])
    assert work is not None
    advance(tape, tape, at, work)
    saved = state.get(f"alone-{at}")
    if saved is None:
        fitted = fit_layer(tape, tape, work, mask_2to4(work.weight.values, work.weight.axis), False, weights)
        with _fitted(tape.wiring, work, fitted):
            saved = {"change": np.array(outputs.difference(tape.rest(at, outputs.names)))}
        state.put(f"alone-{at}", saved)
    return float(saved["change"])


@contextmanager
def _fitted(wiring: Wiring, work: Product, arrays: Mapping[str, Array]) -> Iterator[None]:
    """The layer has the weights and the bias of `arrays` meanwhile: without that bias, its mean would be another."""
    nodes = [work.node, *wiring.consumers[work.node.output[0]]]  # a MatMul's bias is at the node after it
    before = [list(node.input) for node in nodes]
    wiring.store(work.weight.source, work.stored(arrays["weight"]))
    if arrays["bias"].size:
        set_bias(wiring, work, arrays["bias"])
    yield
    wiring.store(work.weight.source, work.weight.stored)
    for node, names in zip(nodes, before, strict=True):
        del node.input[:]
        node.input.extend(names)
