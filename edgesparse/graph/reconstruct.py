"""Prune a trained network to 2:4 without training, from calibration pictures alone.

Channels are reordered first, so that 2:4 fits better (`permute`). Then, layer by layer, in the order of execution, the
mask is chosen and the kept weights are refitted so that the layer puts out, on what the pruned network feeds it, what
the dense network puts out there (`rebuild`, `fitting`). Which layers, is given, or decided by measured sensitivity
(`choose`) and, where labelled data can tell, by the score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto

from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.graph import fitting
from edgesparse.graph.activations import Batches, checked, input_name
from edgesparse.graph.choose import Choice, rank
from edgesparse.graph.permute import permute
from edgesparse.graph.prune import chosen
from edgesparse.graph.rebuild import LayerFit, Progress, State, rebuild
from edgesparse.graph.sparsity import Layer, inspect, layer_name
from edgesparse.graph.unfold import product
from edgesparse.graph.wiring import Wiring

Score = Callable[[ModelProto], float]
"""Points, 0..100: what a model scores on labelled data."""
STEP = 0.05
"""How closely the largest share within `max_drop` is looked for, as a share of the eligible MACs."""
METHOD = 1
"""Part of a saved state's key: states of other methods are not taken up."""


@dataclass(frozen=True)
class ReconstructedLayer:
    """`error` is what the layer's output lost to pruning, its own and earlier layers', as a share of its variance."""

    name: str
    pruned: bool
    macs: int
    error: float


@dataclass(frozen=True)
class ReconstructReport:
    """What `reconstruct` did. `share` of the eligible multiply-accumulates is 2:4 now; scores None: not asked for."""

    layers: tuple[ReconstructedLayer, ...]
    share: float
    dense_score: float | None
    score: float | None

    @property
    def drop(self) -> float | None:
        """Points lost."""
        return None if self.score is None or self.dense_score is None else self.dense_score - self.score

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "share_of_eligible_macs": round(self.share, 4),
            "dense_score": self.dense_score,
            "score": self.score,
            "drop": self.drop,
            "layers": [asdict(layer) for layer in self.layers],
        }


def quiet(what: str, done: int, total: int) -> None:
    """Show no progress."""


def reconstruct(
    model: ModelProto,
    batches: Batches,
    *,
    layers: Collection[str] | Literal["auto"] | None = None,
    score: Score | None = None,
    max_drop: float | None = None,
    share: float | None = None,
    reorder: bool = True,
    progress: Progress = quiet,
    state_dir: Path | None = None,
) -> tuple[ModelProto, ReconstructReport]:
    """A copy of `model` with layers at 2:4, refitted on `batches`, and a report; `model` stays as it is.

    `layers`: names, None for every eligible one, or "auto": as many as `max_drop` points (1 unless given) allow by
    `score`, or the least sensitive ones that make up `share` (0..1) of the eligible MACs. `max_drop` and `share` mean
    "auto". `reorder` first reorders channels so that 2:4 fits better, where no layer is 2:4 yet; that alone changes no
    output. With `state_dir`, a call that was cut short goes on where it stopped when repeated.
    Raises SparsityError (nothing eligible, shared or unsound weights, `share` not possible within `max_drop`),
    CalibrationError (no or bad batches, no `score` where one is needed).
    """
    auto = layers == "auto" or max_drop is not None or share is not None
    if auto and max_drop is None and share is None:
        max_drop = 1.0
    names = None if layers is None or layers == "auto" else layers
    _check(max_drop, share, score)
    found, all_dense = _layers(model, batches, names)
    job = _Job(model, batches, found, score, reorder and all_dense, progress, state_dir)
    if not auto:
        return job.result(*job.build([layer.name for layer in job.layers]))
    ranked = rank(model, job.layers, batches, job.state("rank"), progress)
    return job.search(ranked, share or 0.0, max_drop)


def _check(max_drop: float | None, share: float | None, score: Score | None) -> None:
    if share is not None and not 0 < share <= 1:
        raise SparsityError(f"share {share:g}: needed more than 0 and at most 1")
    if max_drop is not None and max_drop < 0:
        raise SparsityError(f"max drop {max_drop:g}: needed 0 or more points")
    if max_drop is not None and score is None:
        raise CalibrationError("a limit on the lost points needs labelled data to score on: give some, or a share")


def _layers(model: ModelProto, batches: Batches, names: Collection[str] | None) -> tuple[list[Layer], bool]:
    """The layers that may be pruned, and whether no layer at all is 2:4 yet. Raises as `reconstruct`."""
    wiring = Wiring(model.graph)
    found = {layer_name(node): node for node, _ in chosen(wiring, names)}
    for node in found.values():
        _check_own_weights(wiring, node)
    first = next(iter(checked(lambda: islice(batches(), 1))))
    every = inspect(model, {input_name(model): first.shape}).layers
    layers = [layer for layer in every if layer.name in found]
    if all(layer.sparse for layer in layers):
        raise SparsityError(f"all {len(layers)} layers to prune are 2:4 already: nothing to do")
    return layers, not any(layer.sparse for layer in every)


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
    layers: Sequence[Layer]
    score: Score | None
    reorder: bool
    progress: Progress
    state_dir: Path | None

    def state(self, what: str) -> State:
        """Where a part of the work is kept: by model, data, method and `what`."""
        if self.state_dir is None:
            return State(None)
        digest = hashlib.sha256(self.model.SerializeToString(deterministic=True))
        for batch in checked(self.batches):
            digest.update(repr(batch.shape).encode() + np.ascontiguousarray(batch).tobytes())
        digest.update(repr((METHOD, fitting.RIDGE, fitting.BLOCK, what)).encode())
        return State(self.state_dir / digest.hexdigest()[:16])

    def build(self, names: Sequence[str]) -> tuple[ModelProto, list[LayerFit]]:
        """The model with `names` at 2:4, its channels reordered for these first."""
        model = ModelProto()
        model.CopyFrom(self.model)
        if self.reorder and names:
            permute(model, names, partial(self.progress, "reordering channels"))
        state = self.state(f"{self.reorder} {','.join(sorted(names))}")
        return rebuild(model, names, self.batches, state, self.progress)

    def search(
        self, ranked: Sequence[Choice], share: float, max_drop: float | None
    ) -> tuple[ModelProto, ReconstructReport]:
        """The most of `ranked` within `max_drop`, by bisection over their MACs; without a limit, just `share`."""
        saved = np.cumsum([choice.macs for choice in ranked]) / max(1, sum(choice.macs for choice in ranked))
        at_least = int(np.searchsorted(saved, share - 1e-9)) + 1 if share else 0

        def attempt(count: int) -> tuple[ModelProto, ReconstructReport]:
            return self.result(*self.build([choice.name for choice in ranked[:count]]))

        if max_drop is None:
            return self.result(*self.build(_trimmed(ranked[:at_least], share * sum(c.macs for c in ranked))))
        best = attempt(at_least)
        if best[1].drop is not None and best[1].drop > max_drop:
            raise SparsityError(
                f"{share:.0%} of the eligible MACs at 2:4 costs {best[1].drop:.1f} points, {max_drop:g} are allowed: "
                "ask for a smaller share, or allow more"
            )
        low, high = at_least, len(ranked) + 1
        while high - low > 1 and (saved[high - 2] - (saved[low - 1] if low else 0) > STEP or low == 0):
            middle = _middle(saved, low, high)
            tried = attempt(middle)
            within = tried[1].drop is not None and tried[1].drop <= max_drop
            low, high, best = (middle, high, tried) if within else (low, middle, best)
        return best

    def result(self, model: ModelProto, fits: Sequence[LayerFit]) -> tuple[ModelProto, ReconstructReport]:
        macs = {layer.name: layer.macs or 0 for layer in self.layers}
        layers = tuple(
            ReconstructedLayer(fit.name, fit.mask is not None, macs.get(fit.name, 0), fit.error) for fit in fits
        )
        done = sum(layer.macs for layer in layers if layer.pruned)
        share = done / max(1, sum(macs.values()))
        return model, ReconstructReport(layers, share, self.dense_score, self._points(model))

    @cached_property
    def dense_score(self) -> float | None:
        return self._points(self.model)

    def _points(self, model: ModelProto) -> float | None:
        if self.score is None:
            return None
        self.progress("scoring", 0, 0)
        return self.score(model)


def _middle(saved: np.ndarray[Any, np.dtype[np.float64]], low: int, high: int) -> int:
    """The count of layers, between the two, that comes nearest to halfway in MACs."""
    halfway = ((saved[low - 1] if low else 0.0) + saved[min(high, len(saved)) - 1]) / 2
    return int(np.clip(np.searchsorted(saved, halfway) + 1, low + 1, high - 1))


def _trimmed(taken: Sequence[Choice], macs: float) -> list[str]:
    """The names of `taken` but for those, the most sensitive first, that `macs` are reached without."""
    total, names = sum(choice.macs for choice in taken), [choice.name for choice in taken]
    for choice in sorted(taken, key=lambda choice: choice.change, reverse=True):
        if total - choice.macs >= macs:
            total -= choice.macs
            names.remove(choice.name)
    return names
