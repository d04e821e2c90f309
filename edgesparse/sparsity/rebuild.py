"""One pass over a network: layer by layer, in the order of execution, to 2:4 and refitted to the dense network.

Each layer is fitted on what the pruned network really feeds it, to what the dense one puts out there, so a layer also
makes good, as far as it can, what earlier ones lost. Layers that stay dense are refitted for the same reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.model.activations import Batches, Tape
from edgesparse.model.bias import has_bias, set_bias
from edgesparse.model.layers import layer_name
from edgesparse.model.threads import in_threads
from edgesparse.model.unfold import Product, product
from edgesparse.model.weights import LAYERS, Weight
from edgesparse.model.wiring import Array
from edgesparse.progress import Progress
from edgesparse.sparsity.fitting import Mask, Moments, Sums, fit
from edgesparse.sparsity.mask import GROUP, mask_2to4, violations
from edgesparse.sparsity.permute import drop_unread
from edgesparse.sparsity.places import Places


@dataclass(frozen=True)
class LayerFit:
    """`error` is what the layer's output lost, as a share of its variance; `mask` is None where it stayed dense."""

    name: str
    error: float
    mask: Mask | None


class State:
    """Named sets of arrays in a folder, each written whole or not at all; without a folder nothing is kept.

    One call at a time works in a folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for the time of the call, on the same disk; what a killed call left there goes."""
        for left in self.folder.glob("tape-*") if self.folder is not None else ():
            shutil.rmtree(left, ignore_errors=True)
        with TemporaryDirectory(dir=self.folder, prefix="tape-") as folder:
            yield Path(folder)

    def get(self, name: str) -> dict[str, Array] | None:
        if self.folder is None or not (self.folder / f"{name}.npz").is_file():
            return None
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as held:
            return dict(held)

    def put(self, name: str, arrays: Mapping[str, Any]) -> None:
        if self.folder is None:
            return
        part = self.folder / f"{name}.part"
        with part.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / f"{name}.npz")


def rebuild(
    model: ModelProto,
    names: Collection[str],
    batches: Batches,
    state: State,
    progress: Progress,
    places: Places | None = None,
) -> tuple[ModelProto, list[LayerFit]]:
    """A copy of `model` whose layers `names` are 2:4, and how each layer came out; `places` weighs where it is fitted.

    Layers that `state` holds are taken from there.
    """
    fits: list[LayerFit] = []
    if not names:
        return model, fits
    with state.scratch() as folder:
        whole = state.get("whole") is not None
        dense, pruned = _tapes(model, folder, batches if not whole else None)
        layers = [i for i, node in enumerate(dense.nodes) if node.op_type in LAYERS]
        first = min((i for i in layers if layer_name(dense.nodes[i]) in names), default=len(dense.nodes))
        todo = [i for i in layers if i >= first]
        for done, at in enumerate(todo):
            node = pruned.nodes[at]
            progress("reconstructing", done, len(todo))
            wanted = layer_name(node) in names
            work = refittable(pruned, node, wanted)
            if work is None:
                continue
            # the stretches end at the same places after an interruption too: what lies between is rounded
            if not whole:
                advance(dense, pruned, at, work)
            key = f"layer-{at}"
            held = state.get(key)
            if held is None:
                held = fit_layer(dense, pruned, work, wanted, places)
                state.put(key, held)
            fits.append(_apply(pruned, work, held, wanted))
        progress("reconstructing", len(todo), len(todo))
    state.put("whole", {})
    drop_unread(pruned.model)
    return pruned.model, fits


def _tapes(model: ModelProto, folder: Path, batches: Batches | None) -> tuple[Tape, Tape]:
    tapes = []
    for part in ("dense", "pruned"):
        own = ModelProto()
        own.CopyFrom(model)
        (folder / part).mkdir()
        tapes.append(Tape(own, folder / part))
        if batches is not None:
            tapes[-1].load(batches)
    if tapes[0].count != tapes[1].count:
        raise CalibrationError("the calibration images changed between two passes: give the same ones each time")
    return tapes[0], tapes[1]


def refittable(tape: Tape, node: NodeProto, wanted: bool) -> Product | None:
    """The layer as a product, or None where it cannot be refitted; raises SparsityError where it was to be pruned."""
    try:
        found = product(tape.wiring, node)
        has_bias(tape.wiring, found)
    except SparsityError as error:
        if wanted:
            raise SparsityError(f"{layer_name(node)}: {error}") from None
        return None
    return found if np.isfinite(found.weight.values).all() else None


def advance(dense: Tape, pruned: Tape, at: int, work: Product) -> None:
    """Have the inputs of the layer at node `at` ready to read, and the dense network's outputs there."""
    pruned.run_to(at)
    dense.run_to(at + 1, keep=[work.node.output[0], work.reads])


def fit_layer(
    dense: Tape, pruned: Tape, work: Product, wanted: bool, places: Places | None, search: bool = True
) -> dict[str, Array]:
    """Weight, bias, mask and error of one layer, as `State` holds them; without `search` the mask is magnitude's.

    A layer that is not `wanted` but 2:4 already keeps its mask.
    """
    matrix, intercept = work.matrix * work.scale, has_bias(pruned.wiring, work)
    groups = work.groups if wanted and search else np.empty((0, 4), np.intp)
    start = work.as_matrix(_start(work.weight, wanted))
    rows = np.split(np.arange(len(matrix)), work.parts)
    moments = _moments(dense, pruned, work, places)
    fits = [fit(moments.normal(i, intercept), matrix[r], groups, start[r]) for i, r in enumerate(rows)]
    return {
        "weight": np.concatenate([part.weight for part in fits]) / work.scale,
        "mask": np.concatenate([part.mask for part in fits]),
        "bias": np.concatenate([part.bias for part in fits]) if intercept else np.zeros(0),
        "error": np.array(np.mean([part.error for part in fits])),
    }


def _start(weight: Weight, wanted: bool) -> Array:
    sparse = weight.values.shape[weight.axis] % GROUP == 0 and violations(weight.values != 0, weight.axis)[0] == 0
    return mask_2to4(weight.values, weight.axis) if wanted or sparse else np.ones(weight.values.shape, np.bool_)


def _moments(dense: Tape, pruned: Tape, work: Product, places: Places | None) -> Moments:
    """What the pruned network feeds the layer, and what the dense one makes of that place."""
    outputs, columns = work.matrix.shape
    moments = Moments(work.parts, columns, outputs // work.parts)

    def sums(pair: tuple[int, tuple[Array, Array]]) -> Sums:
        batch, (x, y) = pair
        weight = None if places is None or y.ndim != 4 else places.weights(batch, *y.shape[2:])
        return Sums.of(work.parts, work.inputs(x), work.outputs(y), weight)

    pairs = zip(pruned.read(work.reads), dense.read(work.node.output[0]), strict=True)
    for added in in_threads(sums, enumerate(pairs)):
        moments.add(added)
    return moments


def _apply(pruned: Tape, work: Product, held: Mapping[str, Array], wanted: bool) -> LayerFit:
    pruned.wiring.store(work.weight.source, work.stored(held["weight"]))
    if held["bias"].size:
        set_bias(pruned.wiring, work, held["bias"])
    return LayerFit(layer_name(work.node), float(held["error"]), held["mask"] if wanted else None)
