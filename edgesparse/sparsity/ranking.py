"""Ranks layers for pruning: how much each one alone changes the model's outputs, relative to the work that it saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from onnx import ModelProto

from edgesparse.model.activations import Batches, Tape, stride
from edgesparse.model.bias import set_bias
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import Read, ReferenceOutputs
from edgesparse.model.unfold import Product
from edgesparse.model.wiring import Array, Wiring
from edgesparse.progress import Progress
from edgesparse.sparsity.inspect import InspectedLayer
from edgesparse.sparsity.mask import mask_2to4
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.rebuild import FitData, State, advance, fit_layer, refittable, tape_in

Item = TypeVar("Item")
IMAGES = 60
"""Batches, spread evenly over all: layers are fitted on two of three, and the change of the outputs is measured on the
third. A wide layer changes the outputs for batches that it was fitted on far less than for others.
"""


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
    fitted, others = _split(data)
    outputs = ReferenceOutputs(model, others, read)
    with state.scratch() as folder:
        copy = ModelProto()
        copy.CopyFrom(model)
        source, held_out = (tape_in(folder / name, copy, part) for name, part in (("a", fitted.batches), ("b", others)))
        for at, node in enumerate(source.nodes):
            if layer_name(node) in by_name:
                progress("measuring sensitivity", len(changes), len(by_name))
                changes[layer_name(node)] = _alone(source, held_out, at, outputs, state, fitted)
    ranked = [Choice(name, by_name[name][0], change) for name, change in changes.items()]
    return sorted(ranked, key=lambda choice: choice.change / by_name[choice.name][1])


def take(ranked: Sequence[Choice], macs: float) -> list[str]:
    """Return the first names of `ranked` that make up `macs`, without the most sensitive ones that are not needed for
    it.
    """
    total = np.cumsum([choice.macs for choice in ranked])
    taken = ranked[: int(np.searchsorted(total, macs - 1e-9)) + 1]
    spare, names = sum(choice.macs for choice in taken) - macs, [choice.name for choice in taken]
    for choice in sorted(taken, key=lambda choice: choice.change, reverse=True):
        if choice.macs <= spare:
            spare -= choice.macs
            names.remove(choice.name)
    return names


def _split(data: FitData) -> tuple[FitData, Batches]:
    """Return the data to fit layers on, and the batches to measure the change on; a single batch is both."""
    step = stride(data.batches, IMAGES)
    weights = data.weights and PositionWeights(tuple(_thirds(data.weights.maps, step, False)))
    fitted = FitData(lambda: _thirds(data.batches(), step, False), weights)
    others = list(_thirds(data.batches(), step, True))
    return fitted, (lambda: others) if others else fitted.batches


def _thirds(items: Iterable[Item], step: int, held_out: bool) -> Iterator[Item]:
    """Yield every `step`-th item: of these each third if `held_out`, else the rest."""
    return (item for i, item in enumerate(islice(items, 0, None, step)) if (i % 3 == 1) == held_out)


def _alone(source: Tape, held_out: Tape, at: int, outputs: ReferenceOutputs, state: State, data: FitData) -> float:
    """Return what pruning only the layer at node `at`, fitted on `source`, changes in `held_out`: only the nodes after
    it run again.
    """
    work = refittable(source, source.nodes[at])
    assert work is not None
    for tape in (source, held_out):
        advance(tape, tape, at, work)
    saved = state.get(f"alone-{at}")
    if saved is None:
        arrays = fit_layer(source, source, work, mask_2to4(work.weight.values, work.weight.axis), True, data)
        with _fitted(held_out.wiring, work, arrays):
            saved = {"change": np.array(outputs.difference(held_out.rest(at, outputs.names)))}
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
