"""Prune a trained network to 2:4 without training, from calibration images alone.

Channels are reordered first, so that 2:4 fits better (`permute`). Then, layer by layer, in the order of execution, the
mask is chosen and the kept weights are refitted so that the layer puts out, on what the pruned network feeds it, what
the dense network puts out there (`rebuild`, `fitting`). Which layers, is given, or decided by measured sensitivity
(`choose`) and, where labelled data can tell, by the score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.model.activations import Batches, checked, input_name
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import Read
from edgesparse.model.threads import blas_on_one_core
from edgesparse.model.unfold import product
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress, quiet
from edgesparse.sparsity import fitting
from edgesparse.sparsity.inspect import Layer, inspect
from edgesparse.sparsity.permute import permute
from edgesparse.sparsity.places import Places
from edgesparse.sparsity.prune import chosen
from edgesparse.sparsity.ranking import Choice, rank
from edgesparse.sparsity.rebuild import State, rebuild
from edgesparse.sparsity.reconstruction import ReconstructReport, described

Score = Callable[[ModelProto], float]
"""Points, 0..100: what a model scores on labelled data."""
Result = tuple[ModelProto, ReconstructReport]
STEP = 0.05
"""How closely the largest share within `max_drop` is looked for, as a share of the eligible MACs."""
METHOD = 4
"""Part of a saved state's key, for other constants than those in `fitting`: other methods' states are not taken up."""


def reconstruct(
    model: ModelProto,
    batches: Batches,
    *,
    layers: Collection[str] | Literal["auto"] | None = None,
    score: Score | None = None,
    max_drop: float | None = None,
    share: float | None = None,
    gains: Mapping[str, float] | None = None,
    objects: Iterable[npt.NDArray[np.float32]] | None = None,
    read: Read | None = None,
    reorder: bool = True,
    progress: Progress = quiet,
    state_dir: Path | None = None,
) -> tuple[ModelProto, ReconstructReport]:
    """A copy of `model` with layers at 2:4, refitted on `batches`, and a report; `model` stays as it is.

    `layers`: names, None for every eligible one, or "auto": as many as `max_drop` points (1 unless given) allow by
    `score`, or the least sensitive ones that make up `share` (0..1) of the eligible MACs. `max_drop` and `share` mean
    "auto". It weighs what a layer changes against what 2:4 saves there: its MACs, or `gains` by name, in any unit,
    where given; what gains nothing stays dense. What a layer changes is measured on what `read` makes of the outputs,
    on these themselves without. `objects` tells for each batch, [N, height, width] from 0 to 1, where something to
    detect is: layers are fitted to these places more than to others. `reorder` first reorders channels so that 2:4
    fits better, where no layer is 2:4 yet; that alone changes no output. With `state_dir`, a call that was cut short
    goes on where it stopped when repeated.
    Raises SparsityError (nothing eligible, shared or unsound weights, `share` not possible within `max_drop`),
    CalibrationError (no or bad batches, no `score` where one is needed).
    """
    auto = layers == "auto" or max_drop is not None or share is not None
    if auto and max_drop is None and share is None:
        max_drop = 1.0
    names = None if layers is None or layers == "auto" else layers
    _check(max_drop, share, score)
    every, wanted = _layers(model, batches, names)
    reorder = reorder and not any(layer.sparse for layer in every)
    places = None if objects is None else Places.of(objects)
    job = _Job(model, batches, places, every, wanted, score, reorder, progress, state_dir)
    with blas_on_one_core():
        if not auto:
            return job.result([layer.name for layer in wanted])
        return job.choose(gains, read, share or 0.0, max_drop)


def _check(max_drop: float | None, share: float | None, score: Score | None) -> None:
    if share is not None and not 0 < share <= 1:
        raise SparsityError(f"share {share:g}: needed more than 0 and at most 1")
    if max_drop is not None and max_drop < 0:
        raise SparsityError(f"max drop {max_drop:g}: needed 0 or more points")
    if max_drop is not None and score is None:
        raise CalibrationError("a limit on the lost points needs labelled data to score on: give some, or a share")


def _layers(model: ModelProto, batches: Batches, names: Collection[str] | None) -> tuple[list[Layer], list[Layer]]:
    """All layers, and those that may be pruned. Raises as `reconstruct`."""
    wiring = Wiring(model.graph)
    found = {layer_name(node): node for node, _ in chosen(wiring, names)}
    for node in found.values():
        _check_own_weights(wiring, node)
    first = next(iter(checked(lambda: islice(batches(), 1))))
    every = list(inspect(model, {input_name(model): first.shape}).layers)
    layers = [layer for layer in every if layer.name in found]
    if all(layer.sparse for layer in layers):
        raise SparsityError(f"all {len(layers)} layers to prune are 2:4 already: nothing to do")
    return every, layers


def _check_own_weights(wiring: Wiring, node: NodeProto) -> None:
    try:
        product(wiring, node)
    except SparsityError as error:
        raise SparsityError(f"{layer_name(node)}: {error}") from None


@dataclass(frozen=True)
class _Job:
    """One call of `reconstruct`: what stays the same while sets of layers are tried."""

    model: ModelProto
    batches: Batches
    places: Places | None
    every: Sequence[Layer]
    layers: Sequence[Layer]
    score: Score | None
    reorder: bool
    progress: Progress
    state_dir: Path | None

    def choose(
        self, gains: Mapping[str, float] | None, read: Read | None, share: float, max_drop: float | None
    ) -> Result:
        """Those that change the outputs least for what they save: `share` of the MACs, or the most in `max_drop`."""
        macs = {layer.name: float(layer.macs or 0) for layer in self.layers}
        gains = {name: (macs if gains is None else gains).get(name, 0.0) for name in macs}
        worth = [layer for layer in self.layers if gains[layer.name] > 0]
        possible = sum(macs[layer.name] for layer in worth) / max(1.0, sum(macs.values()))
        if possible < max(share, 1e-9):
            raise SparsityError(f"layers that gain by 2:4 make up {possible:.0%} of the eligible MACs: ask for no more")
        state = self.state("rank" if read is None else "rank, outputs read")
        ranked = rank(self.model, worth, gains, self.batches, state, self.progress, self.places, read)
        if max_drop is None:
            return self.result(_taken(ranked, share * sum(macs.values())), ranked)
        return self._search(ranked, share, max_drop)

    def _search(self, ranked: Sequence[Choice], share: float, max_drop: float) -> Result:
        """The most of `ranked` within `max_drop`, and at least `share`, closed in on by trying."""
        saved = np.cumsum([choice.macs for choice in ranked]) / max(1, sum(layer.macs or 0 for layer in self.layers))
        low = int(np.searchsorted(saved, share - 1e-9)) + 1 if share else 0
        best = self.result([choice.name for choice in ranked[:low]], ranked)
        if _drop(best) > max_drop:
            raise SparsityError(
                f"{share:.0%} of the eligible MACs at 2:4 costs {_drop(best):.1f} points, {max_drop:g} are allowed: "
                "ask for a smaller share, or allow more"
            )
        high, too_much = len(ranked) + 1, None
        while high - low > 1 and (saved[high - 2] - (saved[low - 1] if low else 0) > STEP or low == 0):
            count = _between(saved, low, high, _part(_drop(best), too_much, max_drop))
            tried = self.result([choice.name for choice in ranked[:count]], ranked)
            if _drop(tried) <= max_drop:
                low, best = count, tried
            else:
                high, too_much = count, _drop(tried)
        return best

    def result(self, names: Sequence[str], ranked: Sequence[Choice] | None = None) -> Result:
        """The model with `names` at 2:4, its channels reordered for these first, and what became of it."""
        model = ModelProto()
        model.CopyFrom(self.model)
        if self.reorder and names:
            permute(model, names, self.progress)
        state = self.state(f"{self.reorder} {','.join(sorted(names))}")
        model, fits = rebuild(model, names, self.batches, state, self.progress, self.places)
        layers = described(self.every, fits, ranked)
        score = self._points(model) if names else self._dense_score
        return model, ReconstructReport(layers, self._dense_score, score)

    def state(self, what: str) -> State:
        """Where a part of the work is kept: by model, images, method and `what`."""
        if self.state_dir is None:
            return State(None)
        made = hashlib.sha256(f"{self._inputs} {METHOD} {fitting.RIDGE} {fitting.BLOCK} {what}".encode())
        return State(self.state_dir / made.hexdigest()[:16])

    @cached_property
    def _inputs(self) -> str:
        digest = hashlib.sha256(self.model.SerializeToString(deterministic=True))
        for batch in checked(self.batches):
            digest.update(repr(batch.shape).encode() + np.ascontiguousarray(batch).tobytes())
        if self.places is not None:
            digest.update(self.places.key)
        return digest.hexdigest()

    @cached_property
    def _dense_score(self) -> float | None:
        return self._points(self.model)

    def _points(self, model: ModelProto) -> float | None:
        if self.score is None:
            return None
        self.progress("scoring", 0, 0)
        return self.score(model)


def _drop(result: Result) -> float:
    return result[1].drop or 0.0


def _part(least: float, most: float | None, allowed: float) -> float:
    """How far between drops `least` and `most` to look for the `allowed` one: it grows about as the share squared."""
    if most is None:
        return 0.5
    low, high, wanted = (max(drop, 0.0) ** 0.5 for drop in (least, most, allowed))
    return float(np.clip((wanted - low) / (high - low), 0.1, 0.9))


def _between(saved: npt.NDArray[np.float64], low: int, high: int, part: float) -> int:
    """The count of layers, between the two, that comes nearest to `part` of the way in MACs."""
    start, end = saved[low - 1] if low else 0.0, saved[min(high, len(saved)) - 1]
    return int(np.clip(np.searchsorted(saved, start + part * (end - start)) + 1, low + 1, high - 1))


def _taken(ranked: Sequence[Choice], macs: float) -> list[str]:
    """The first names of `ranked` that make up `macs`, but for those, the most sensitive first, that can stay dense."""
    total = np.cumsum([choice.macs for choice in ranked])
    taken = ranked[: int(np.searchsorted(total, macs - 1e-9)) + 1]
    left, names = sum(choice.macs for choice in taken) - macs, [choice.name for choice in taken]
    for choice in sorted(taken, key=lambda choice: choice.change, reverse=True):
        if choice.macs <= left:
            left -= choice.macs
            names.remove(choice.name)
    return names
