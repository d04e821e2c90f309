"""Prunes a trained model to 2:4 without training, using only calibration images.

Channels are reordered first, so that 2:4 fits better (`permute`). Then, layer by layer in order of execution, the mask
is chosen and the kept weights are refitted, so that, with the inputs it gets in the pruned model, the layer's outputs
match those of the dense model (`rebuild`, `fitting`). Layers are named by the caller, or chosen by their measured
sensitivity (`ranking`) and, if labels are available, by the score. `Task.refine` may then train all weights together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgesparse import knapsack
from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.model.activations import Batches, checked, input_name
from edgesparse.model.check import require_finite
from edgesparse.model.layers import behind_selection, layer_name
from edgesparse.model.outputs import Read
from edgesparse.model.threads import blas_on_one_core
from edgesparse.model.wiring import Wiring
from edgesparse.progress import Progress, quiet
from edgesparse.refinement import Refine
from edgesparse.sparsity.inspect import InspectedLayer, inspect
from edgesparse.sparsity.permute import permute
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.prune import chosen
from edgesparse.sparsity.ranking import Choice, rank, take
from edgesparse.sparsity.rebuild import FitData, States, rebuild, refit_obstacle
from edgesparse.sparsity.reconstruct_report import ReconstructReport, describe
from edgesparse.sparsity.search import Search

Score = Callable[[ModelProto], float]
"""The points, 0 to 100, that a model scores on labeled data."""
Result = tuple[ModelProto, ReconstructReport]
STEP = 0.05
"""The search for the largest share within `max_drop` stops at this share of the eligible MACs."""
METHOD = 7
"""Part of a saved state's key. Increase it if the method changes: a state of another method is not continued."""


@dataclass(frozen=True)
class ReconstructOptions:
    """Which layers to prune, and how.

    `layers`: names, None for every eligible layer, or "auto": as many as `max_drop` points (default 1) allow, or the
    least sensitive layers that make up `share` (0 to 1) of the eligible MACs. `max_drop` and `share` imply "auto".
    `gains`: what 2:4 saves in each layer, by name, in any unit; MACs by default. A layer that saves nothing stays
    dense. `also`: what 2:4 in a layer changes besides, by name, in the unit of `Choice.change`, such as by ReLU that it
    needs behind it. `reorder`: reorder channels first if no layer is 2:4 yet; that alone does not change outputs.
    `state_dir`: a folder from which an interrupted call continues if it is repeated.
    """

    layers: Collection[str] | Literal["auto"] | None = None
    max_drop: float | None = None
    share: float | None = None
    gains: Mapping[str, float] | None = None
    also: Mapping[str, float] = field(default_factory=dict)
    reorder: bool = True
    state_dir: Path | None = None

    @property
    def auto(self) -> bool:
        """Whether the layers are chosen by sensitivity."""
        return self.layers == "auto" or self.max_drop is not None or self.share is not None

    @property
    def names(self) -> Collection[str] | None:
        """The layers named by the caller; None if there are none."""
        return None if self.layers is None or self.layers == "auto" else self.layers

    @property
    def allowed_drop(self) -> float | None:
        """The most points that may be lost; None if only `share` decides."""
        return 1.0 if self.auto and self.max_drop is None and self.share is None else self.max_drop

    def check(self, score: Score | None) -> None:
        """Raise SparsityError for values out of range, CalibrationError for a limit on points without `score`."""
        if self.share is not None and not 0 < self.share <= 1:
            raise SparsityError(f"share {self.share:g}: needed more than 0 and at most 1")
        if self.max_drop is not None and self.max_drop < 0:
            raise SparsityError(f"max drop {self.max_drop:g}: needed 0 or more points")
        if self.allowed_drop is not None and score is None:
            raise CalibrationError("a limit on the points lost needs labeled data to score on: pass some, or a share")


@dataclass(frozen=True)
class Task:
    """What is known about the model besides its graph.

    `score` scores it on labeled data. `read` turns a batch's outputs into [places, fields], on which changes of the
    outputs are measured; without it, on the outputs themselves. `objects` yields, per batch, [N, height, width] from 0
    to 1, where objects are: layers are fitted to these positions more than to others. `refine` trains all weights of
    a pruned model together.
    """

    score: Score | None = None
    read: Read | None = None
    objects: Iterable[npt.NDArray[np.float32]] | None = None
    refine: Refine | None = None


def reconstruct(
    model: ModelProto,
    batches: Batches,
    options: ReconstructOptions | None = None,
    task: Task | None = None,
    progress: Progress = quiet,
) -> Result:
    """Return a copy of `model` with 2:4 layers, refitted on `batches`, and a report; `model` is not changed.

    Raises SparsityError (no eligible layer, a named layer that cannot be refitted, non-finite weights, `share` not
    possible within `max_drop`) and CalibrationError (no or bad batches, no score where one is needed).
    """
    options = options or ReconstructOptions()
    run = _prepared(model, batches, options, task or Task(), progress)
    with blas_on_one_core():
        return run.choose() if options.auto else run.result([layer.name for layer in run.eligible])


def least_sensitive(
    model: ModelProto, batches: Batches, options: ReconstructOptions, task: Task, progress: Progress = quiet
) -> list[str]:
    """Return the layers that `reconstruct` makes 2:4 for `options.share`, which must be set, without `max_drop`.

    Raises what `reconstruct` raises.
    """
    run = _prepared(model, batches, options, task, progress)
    with blas_on_one_core():
        return run.taken(run.ranked())


def _prepared(
    model: ModelProto, batches: Batches, options: ReconstructOptions, task: Task, progress: Progress
) -> _Reconstruction:
    options.check(task.score)
    require_finite(model)
    layers, eligible, skipped = _layers(model, batches, options.names)
    weights = None if task.objects is None else PositionWeights.of(task.objects)
    reorder = options.reorder and not any(layer.sparse for layer in layers)
    data = FitData(batches, weights)
    states = States(options.state_dir, model, data, str(METHOD))
    return _Reconstruction(model, data, options, task, progress, layers, eligible, skipped, reorder, states)


def sensitivity(
    model: ModelProto, batches: Batches, options: ReconstructOptions, task: Task, progress: Progress = quiet
) -> list[Choice]:
    """Return what 2:4 in each layer of `options.gains` alone changes, the least for what it gains first.

    Raises what `reconstruct` raises for the model and the images.
    """
    with blas_on_one_core():
        return _prepared(model, batches, options, task, progress).ranked()


def _gaining(eligible: Sequence[InspectedLayer], gains: Mapping[str, float] | None) -> dict[InspectedLayer, float]:
    """The layers that gain from 2:4, and how much; MACs by default."""
    known = {layer.name: float(layer.macs or 0) for layer in eligible} if gains is None else gains
    return {layer: gain for layer in eligible if (gain := known.get(layer.name, 0.0)) > 0}


def _layers(
    model: ModelProto, batches: Batches, names: Collection[str] | None
) -> tuple[list[InspectedLayer], list[InspectedLayer], dict[str, str]]:
    """Return all layers, those that may be pruned, and why other eligible layers may not. Raises what `reconstruct`
    raises.
    """
    wiring = Wiring(model.graph)
    behind = behind_selection(wiring)
    nodes = {layer_name(node): node for node, _ in chosen(wiring, names)}
    obstacles = {name: refit_obstacle(wiring, node, behind) for name, node in nodes.items()}
    skipped = {name: reason for name, reason in obstacles.items() if reason is not None}
    if skipped and (names is not None or len(skipped) == len(nodes)):
        name, reason = next(iter(skipped.items()))
        raise SparsityError(f"{name}: {reason}")
    first = next(iter(checked(lambda: islice(batches(), 1))))
    layers = list(inspect(model, {input_name(model): first.shape}).layers)
    eligible = [layer for layer in layers if layer.name in nodes and layer.name not in skipped]
    if all(layer.sparse for layer in eligible):
        raise SparsityError(f"all {len(eligible)} layers to prune are already 2:4: nothing to do")
    return layers, eligible, skipped


@dataclass(frozen=True)
class _Reconstruction:
    """One call of `reconstruct`: its constant inputs while sets of layers are tried."""

    model: ModelProto
    data: FitData
    options: ReconstructOptions
    task: Task
    progress: Progress
    layers: Sequence[InspectedLayer]
    eligible: Sequence[InspectedLayer]
    skipped: Mapping[str, str]
    reorder: bool
    states: States

    def choose(self) -> Result:
        """Return the layers that change the outputs least for what they save: `share` of the MACs, or all within the
        drop.
        """
        ranked, max_drop = self.ranked(), self.options.allowed_drop
        if max_drop is None:
            return self.result(self.taken(ranked), ranked)
        return self._search(ranked, self.options.share or 0.0, max_drop)

    def ranked(self) -> list[Choice]:
        """Return the layers that gain from 2:4, the least change for what they gain first. Raises SparsityError if they
        do not make up the share.
        """
        share, gains = self.options.share or 0.0, _gaining(self.eligible, self.options.gains)
        possible = sum(layer.macs or 0 for layer in gains) / max(1.0, self._macs)
        if possible < max(share, 1e-9):
            raise SparsityError(
                f"layers that gain from 2:4 make up {possible:.0%} of the eligible MACs: needed {share:.0%}; "
                "ask for a smaller share"
            )
        state = self.states.of("rank" if self.task.read is None else "rank, outputs read")
        ranked = rank(self.model, gains, self.data, self.task.read, state, self.progress)
        also = self.options.also
        gain = {layer.name: value for layer, value in gains.items()}
        whole = [replace(choice, change=choice.change + also.get(choice.name, 0.0)) for choice in ranked]
        return sorted(whole, key=lambda choice: choice.change / gain[choice.name])

    def taken(self, ranked: Sequence[Choice]) -> list[str]:
        """Return the first of `ranked` that make up the share."""
        return take(ranked, (self.options.share or 0.0) * self._macs)

    @property
    def _macs(self) -> float:
        return float(sum(layer.macs or 0 for layer in self.eligible))

    def _search(self, ranked: Sequence[Choice], share: float, max_drop: float) -> Result:
        """Return as many of `ranked` as fit within `max_drop`, and at least `share`, by trial."""
        saved = np.cumsum([choice.macs for choice in ranked]) / max(1.0, self._macs)
        low = int(np.searchsorted(saved, share - 1e-9)) + 1 if share else 0
        best = self.result([choice.name for choice in ranked[:low]], ranked)
        if _drop(best) > max_drop:
            raise SparsityError(
                f"{share:.0%} of the eligible MACs at 2:4 costs {_drop(best):.1f} points, {max_drop:g} are allowed: "
                "ask for a smaller share, or allow more"
            )
        search = Search(saved, STEP, max_drop)
        return search.run(low, best, lambda count: self.result(self._first(ranked, count), ranked), _drop)

    def _first(self, ranked: Sequence[Choice], count: int) -> list[str]:
        """Return the first `count` of `ranked` or, if gains are known, those layers that gain the most and change the
        outputs as little.
        """
        gains = self.options.gains
        if gains is None:
            return [choice.name for choice in ranked[:count]]
        items = [[knapsack.Choice(gains[choice.name], choice.change)] for choice in ranked]
        picks = knapsack.pick(items, sum(choice.change for choice in ranked[:count]))
        return [choice.name for choice, at in zip(ranked, picks, strict=True) if at is not None]

    def result(self, names: Sequence[str], ranked: Sequence[Choice] | None = None) -> Result:
        """Return the model with `names` at 2:4, its channels first reordered for these, and the fit of each layer."""
        model = ModelProto()
        model.CopyFrom(self.model)
        if self.reorder and names:
            permute(model, names, self.progress)
        state = self.states.of(f"{self.reorder} {','.join(sorted(names))}")
        pruned, fits = rebuild(model, names, self.data, state, self.progress)
        training = None
        if self.task.refine is not None and names:
            checkpoint = None if state.folder is None else state.folder / "training.pt"
            trained = self.task.refine(model, pruned, checkpoint, self.progress)
            pruned, training = trained.model, trained.report
        layers = describe(self.layers, fits, ranked, self.skipped)
        score = self._points(pruned) if names else self._dense_score
        return pruned, ReconstructReport(layers, self._dense_score, score, training)

    @cached_property
    def _dense_score(self) -> float | None:
        return self._points(self.model)

    def _points(self, model: ModelProto) -> float | None:
        if self.task.score is None:
            return None
        self.progress("scoring", 0, 0)
        return self.task.score(model)


def _drop(result: Result) -> float:
    return result[1].drop or 0.0
