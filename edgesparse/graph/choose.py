"""Which layers to prune: how much each one alone changes what the network puts out, against the products it saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgesparse.graph.activations import Batches, Tape, stream
from edgesparse.graph.rebuild import Progress, State, advance, fit_layer, refittable
from edgesparse.graph.sparsity import Layer, layer_name
from edgesparse.graph.wiring import Array, Wiring

PICTURES = 32
"""Batches that a layer is fitted on to learn how sensitive it is; half as many to see the network's outputs."""


@dataclass(frozen=True)
class Choice:
    """`change` is what pruning this layer alone does to the outputs, as a share of their variance."""

    name: str
    macs: int
    change: float


def rank(
    model: ModelProto, layers: Sequence[Layer], batches: Batches, state: State, progress: Progress
) -> list[Choice]:
    """`layers`, those first that change the outputs least for the multiply-accumulates they save."""
    macs = {layer.name: layer.macs or 0 for layer in layers}
    choices: list[Choice] = []
    before = list(_outputs(model, batches))
    with TemporaryDirectory(dir=state.folder, prefix="tape-") as folder:
        tape = Tape(model, Path(folder))
        tape.load(lambda: islice(batches(), PICTURES))
        for at, node in enumerate(tape.nodes):
            if layer_name(node) in macs:
                progress("measuring sensitivity", len(choices), len(macs))
                change = _alone(tape, at, batches, before, state)
                choices.append(Choice(layer_name(node), macs[layer_name(node)], change))
    return sorted(choices, key=lambda choice: choice.change / max(choice.macs, 1))


def _alone(tape: Tape, at: int, batches: Batches, before: Sequence[Sequence[Array]], state: State) -> float:
    held = state.get(f"alone-{at}")
    if held is None:
        work = refittable(tape, tape.nodes[at], True)
        assert work is not None
        advance(tape, tape, at, work)
        fitted = fit_layer(tape, tape, at, work, True)
        changed = ModelProto()
        changed.CopyFrom(tape.model)
        Wiring(changed.graph).store(work.weight.source, work.stored(fitted["weight"]))
        held = {"change": np.array(_change(before, list(_outputs(changed, batches))))}
        state.put(f"alone-{at}", held)
    return float(held["change"])


def _outputs(model: ModelProto, batches: Batches) -> Iterator[list[Array]]:
    """All outputs of the network for the first few batches."""
    names = [output.name for output in model.graph.output]
    for values in stream(model, lambda: islice(batches(), PICTURES // 2), names):
        yield [values[name] for name in names]


def _change(before: Sequence[Sequence[Array]], after: Sequence[Sequence[Array]]) -> float:
    """Squared change of the outputs over their variance.

    Where some fields of an output lie between 0 and 1 they are taken for scores: they count together, and what else
    is there, boxes, counts as much as the highest score of its place.
    """
    shares = []
    for old, new in zip(zip(*before, strict=True), zip(*after, strict=True), strict=True):
        a, b = (_fields(np.concatenate(values)) for values in (old, new))
        scores = (a.min(0) >= 0) & (a.max(0) <= 1)
        kinds = [kind for kind in (scores, ~scores) if kind.any()]
        place = a[:, scores].max(1) if len(kinds) == 2 else np.ones(len(a))
        for kind, weight in zip(kinds, (np.ones(len(a)), place), strict=False):
            centre = np.average(a[:, kind], 0, weight)
            spread = weight @ (a[:, kind] - centre) ** 2
            moved = weight @ (b[:, kind] - a[:, kind]) ** 2
            each = moved.sum() / max(spread.sum(), 1e-12) if kind is scores else np.mean(moved / (spread + 1e-12))
            shares.append(float(each))
    return float(np.mean(shares))


def _fields(output: Array) -> npt.NDArray[np.float64]:
    """[places, fields]: the shortest of the axes behind the batch's holds the fields, the others are places."""
    if output.ndim < 2:
        return output.reshape(-1, 1).astype(np.float64)
    axis = 1 + int(np.argmin(output.shape[1:]))
    return np.moveaxis(output, axis, -1).reshape(-1, output.shape[axis]).astype(np.float64)
