"""One pass over a model: layers are pruned to 2:4 in order of execution and refitted to the dense model.

Each layer is fitted on its inputs in the pruned model to its outputs in the dense model, so it also
compensates, as far as it can, for what earlier layers lost. Layers that stay dense are refitted for the same reason.
Where ReLU replaced a smooth activation of the dense model, the fit is to what comes closest behind it (`swapped`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.disk import scratch, storing
from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.files import replacing
from edgesparse.model.activations import Batches, Tape, checked
from edgesparse.model.bias import has_bias, set_bias
from edgesparse.model.layers import layer_name
from edgesparse.model.threads import in_threads
from edgesparse.model.unfold import Product, product
from edgesparse.model.weights import LAYERS, Weight
from edgesparse.model.wiring import Array, Wiring
from edgesparse.progress import Progress
from edgesparse.sparsity import fitting
from edgesparse.sparsity.activated import activated, activation_of
from edgesparse.sparsity.fitting import Moments, Sums, fit
from edgesparse.sparsity.mask import GROUP, mask_2to4, violations
from edgesparse.sparsity.permute import drop_unread
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.solving import Mask
from edgesparse.sparsity.swapped import line_of


@dataclass(frozen=True)
class FitData:
    """The data to fit layers on: calibration batches, and how much each position counts (None: equally).

    `original`: the model whose layers' outputs are matched, with the same names; None for the model itself before it is
    changed. `positions`: about the most that a layer is fitted on; None for all. Where that is fewer, whole batches
    are left out.
    """

    batches: Batches
    weights: PositionWeights | None = None
    original: ModelProto | None = None
    positions: int | None = None

    def step(self, tape: Tape, work: Product) -> int:
        """The stride between the batches that a layer is fitted on; the tape holds the layer's outputs."""
        if self.positions is None:
            return 1
        first = next(tape.read(work.node.output[0]))
        return max(1, tape.count * len(work.outputs(first)) // self.positions)


@dataclass(frozen=True)
class LayerFit:
    """`error`: the loss of the layer's output, as a share of its variance; `mask`: None if the layer stayed dense."""

    name: str
    error: float
    mask: Mask | None


class State:
    """Named sets of arrays in a folder, each written atomically; without a folder nothing is stored.

    A folder serves one call at a time. Raises ConfigError if its disk is full.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            with storing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the same disk; leftovers of a killed call are removed first."""
        for leftover in self.folder.glob("tape-*") if self.folder is not None else ():
            shutil.rmtree(leftover, ignore_errors=True)
        with scratch(self.folder, "tape-") as folder:
            yield folder

    def get(self, name: str) -> dict[str, Array] | None:
        if self.folder is None or not (self.folder / f"{name}.npz").is_file():
            return None
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def put(self, name: str, arrays: Mapping[str, Any]) -> None:
        if self.folder is None:
            return
        with storing(self.folder), replacing(self.folder / f"{name}.npz", synced=True) as file:
            np.savez(file, **arrays)


class States:
    """The states of one call's parts in `folder`: of its model, images and method; None: nothing is stored."""

    def __init__(self, folder: Path | None, model: ModelProto, data: FitData, method: str) -> None:
        self._folder, self._model, self._data, self._method = folder, model, data, method

    def of(self, part: str) -> State:
        """Return the state of one part of the work."""
        if self._folder is None:
            return State(None)
        key = hashlib.sha256(f"{self._inputs} {self._method} {fitting.RIDGE} {fitting.BLOCK} {part}".encode())
        return State(self._folder / key.hexdigest()[:16])

    @cached_property
    def _inputs(self) -> str:
        digest = hashlib.sha256(self._model.SerializeToString(deterministic=True))
        if self._data.original is not None:
            digest.update(self._data.original.SerializeToString(deterministic=True))
        for batch in checked(self._data.batches):
            digest.update(repr(batch.shape).encode() + np.ascontiguousarray(batch).tobytes())
        if self._data.weights is not None:
            digest.update(self._data.weights.key)
        return digest.hexdigest()


def rebuild(
    model: ModelProto,
    names: Collection[str],
    data: FitData,
    state: State,
    progress: Progress,
    inputs: Mapping[str, Mask] | None = None,
) -> tuple[ModelProto, list[LayerFit]]:
    """Return a copy of `model` whose layers `names` are 2:4, and the fit of each layer. Layers stored in `state` are
    not fitted again. `inputs`: layers that may read only some input channels, by name, and which (True) they are.
    """
    inputs = inputs or {}
    changed = {*names, *inputs}
    if not changed and data.original is None:
        return model, []
    with state.scratch() as folder:
        complete = state.get("whole") is not None
        dense, pruned = _tapes((data.original or model, model), folder, None if complete else data.batches)
        todo = _todo(pruned, changed, data.original)
        fits: list[LayerFit] = []
        for done, at in enumerate(todo):
            progress("reconstructing", done, len(todo))
            name = layer_name(pruned.nodes[at])
            work = refittable(pruned, pruned.nodes[at])
            if work is None:
                continue
            # segments must end at the same nodes after an interruption: tensors between them are rounded to FP16
            if not complete:
                advance(dense, pruned, at, work)
            arrays = state.get(f"layer-{at}")
            if arrays is None:
                start = _start(work.weight, name in names, inputs.get(name))
                arrays = fit_layer(dense, pruned, work, start, name in names, data)
                state.put(f"layer-{at}", arrays)
            fits.append(_apply(pruned, work, arrays, name in names))
        progress("reconstructing", len(todo), len(todo))
    state.put("whole", {})
    drop_unread(pruned.model)
    return pruned.model, fits


def _todo(pruned: Tape, changed: Collection[str], original: ModelProto | None) -> list[int]:
    """The nodes to fit: layers from the first one in `changed` on or, with `original`, all that it has too."""
    layers = [i for i, node in enumerate(pruned.nodes) if node.op_type in LAYERS]
    if original is not None:
        known = {name for node in original.graph.node for name in node.output}
        return [i for i in layers if pruned.nodes[i].output[0] in known]
    first = min((i for i in layers if layer_name(pruned.nodes[i]) in changed), default=len(pruned.nodes))
    return [i for i in layers if i >= first]


def _tapes(models: tuple[ModelProto, ModelProto], folder: Path, batches: Batches | None) -> tuple[Tape, Tape]:
    tapes = []
    for part, model in zip(("dense", "pruned"), models, strict=True):
        copy = ModelProto()
        copy.CopyFrom(model)
        tapes.append(tape_in(folder / part, copy, batches))
    if tapes[0].count != tapes[1].count:
        raise CalibrationError("the calibration images changed between two passes: pass the same images each time")
    return tapes[0], tapes[1]


def tape_in(folder: Path, model: ModelProto, batches: Batches | None) -> Tape:
    """Return a tape of `model` in a new folder, at its start with these batches."""
    folder.mkdir()
    tape = Tape(model, folder)
    if batches is not None:
        tape.load(batches)
    return tape


def refit_obstacle(wiring: Wiring, node: NodeProto, behind: Mapping[str, str]) -> str | None:
    """Return why the layer cannot be refitted, or None if it can. `behind`: the result of `behind_selection`."""
    selection = next((behind[name] for name in node.input if name in behind), None)
    if selection is not None:
        return f"behind a {selection}: the pruned network selects different rows there, so it cannot be refitted"
    try:
        has_bias(wiring, product(wiring, node))
    except SparsityError as error:
        return str(error)
    return None


def refittable(tape: Tape, node: NodeProto) -> Product | None:
    """Return the layer as a product, or None if it cannot be refitted."""
    if refit_obstacle(tape.wiring, node, tape.behind_selection) is not None:
        return None
    work = product(tape.wiring, node)
    return work if np.isfinite(work.weight.values).all() else None


def advance(dense: Tape, pruned: Tape, at: int, work: Product) -> None:
    """Run both tapes until the inputs of the layer at node `at`, and the dense model's outputs, can be read."""
    output = work.node.output[0]
    pruned.run_to(at)
    dense.run_to(next(i for i, node in enumerate(dense.nodes, 1) if output in node.output), keep=[output, work.reads])


def fit_layer(dense: Tape, pruned: Tape, work: Product, start: Mask, search: bool, data: FitData) -> dict[str, Array]:
    """Return weight, bias, mask and error of one layer, as stored in `State`.

    `start`: which weights stay, in the layer's own layout; with `search`, a 2:4 mask that is searched from there.
    """
    matrix, intercept = work.matrix * work.scale, has_bias(pruned.wiring, work)
    groups = work.groups if search else np.empty((0, 4), np.intp)
    mask, name = work.as_matrix(start), work.node.output[0]
    rows = np.split(np.arange(len(matrix)), work.parts)
    line = line_of(dense, pruned, work)
    if line is not None:
        matrix *= line.scale[:, None]

    step = data.step(dense, work)
    weights = data.weights and data.weights.every(step)

    def pairs(first: int) -> Iterator[tuple[Array, Array]]:
        outputs = dense.read(name, step, first)
        return zip(
            pruned.read(work.reads, step, first), outputs if line is None else map(line.of, outputs), strict=True
        )

    moments = moments_of([work], ([pair] for pair in pairs(0)), weights)[0]
    fits = [fit(moments.normal(i, intercept), matrix[r], groups, mask[r]) for i, r in enumerate(rows)]
    activation = activation_of(pruned.wiring, name)
    if activation is not None and intercept:
        fits = activated(work, moments, fits, pairs, weights, activation)
    return {
        "weight": np.concatenate([part.weight for part in fits]) / work.scale,
        "mask": np.concatenate([part.mask for part in fits]),
        "bias": np.concatenate([part.bias for part in fits]) if intercept else np.zeros(0),
        "error": np.array(np.mean([part.error for part in fits])),
    }


def _start(weight: Weight, prune: bool, inputs: Mask | None) -> Array:
    sparse = weight.values.shape[weight.axis] % GROUP == 0 and violations(weight.values != 0, weight.axis)[0] == 0
    mask = mask_2to4(weight.values, weight.axis) if prune or sparse else np.ones(weight.values.shape, np.bool_)
    if inputs is None:
        return mask
    return mask & np.expand_dims(inputs, [i for i in range(mask.ndim) if i != weight.axis])


def moments_of(
    works: Sequence[Product], batches: Iterable[Sequence[tuple[Array, Array]]], weights: PositionWeights | None
) -> list[Moments]:
    """Return the moments of the inputs and targets of each layer in `works`; `batches`: both, per layer."""
    moments = [Moments(work.parts, work.matrix.shape[1], work.weight.outputs_inputs[0] // work.parts) for work in works]

    def sums(pairs: tuple[int, Sequence[tuple[Array, Array]]]) -> list[Sums]:
        batch, tensors = pairs
        results = []
        for work, (x, y) in zip(works, tensors, strict=True):
            weight = None if weights is None or y.ndim != 4 else weights.weights(batch, *y.shape[2:])
            results.append(Sums.of(work.parts, work.inputs(x), work.outputs(y), weight))
        return results

    for added in in_threads(sums, enumerate(batches)):
        for total, part in zip(moments, added, strict=True):
            total.add(part)
    return moments


def _apply(pruned: Tape, work: Product, arrays: Mapping[str, Array], prune: bool) -> LayerFit:
    pruned.wiring.store(work.weight.source, work.stored(arrays["weight"]))
    if arrays["bias"].size:
        set_bias(pruned.wiring, work, arrays["bias"])
    return LayerFit(layer_name(work.node), float(arrays["error"]), arrays["mask"] if prune else None)
