"""Removes channels where that saves time, without training, using only calibration images.

Channels that must go together form a block (`coupled`). For each block, smaller widths are tried: which channels matter
is measured by what the layers that read them lose (`importance`), what a width saves by the prediction for a board, and
what it costs by the change of the model's outputs. Widths that save most for what they cost come first. Then, as
`reconstruct` does, all layers are refitted on the inputs that they get, and as many changes are kept as the score
allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgesparse.compress.cost import cost, layer_ms
from edgesparse.compress.coupled import Block, Coupled
from edgesparse.compress.importance import change, fewer
from edgesparse.compress.narrow_report import NarrowedLayer, NarrowReport, describe
from edgesparse.compress.removal import remove
from edgesparse.compress.sites import Inapplicable
from edgesparse.compress.widths import Width, as_arrays, counts, from_arrays, in_order
from edgesparse.errors import CalibrationError, SparsityError
from edgesparse.model.activations import Batches, stream, stride
from edgesparse.model.check import require_finite
from edgesparse.model.layers import layer_name
from edgesparse.model.outputs import ReferenceOutputs
from edgesparse.model.threads import blas_on_one_core
from edgesparse.predict.boards import Board, board
from edgesparse.progress import Progress, quiet
from edgesparse.sparsity.position_weights import PositionWeights
from edgesparse.sparsity.rebuild import FitData, LayerFit, States, rebuild
from edgesparse.sparsity.reconstruct import Task
from edgesparse.sparsity.search import Search
from edgesparse.sparsity.solving import Mask

BOARD, PRECISION = "orin-nano-8gb", "int8"
IMAGES = 40
"""Batches, spread evenly over all, on which importance and the change of the outputs are measured."""
LEAST = 1e-3
"""Smallest saving worth a width, as a share of the predicted time."""
SAME = 1e-3
"""How much outputs may differ once zero weights are taken out, as a share of their largest value."""
HOPELESS = 0.5
"""Plans whose removals add up to a larger change of the outputs, as a share of their variance, are not scored."""
STEP = 0.01
"""The search for the most that `max_drop` allows stops at this share of the predicted time."""
METHOD = "channels 1"
"""Part of a saved state's key. Change it with the method: a state of another method is not continued."""


@dataclass(frozen=True)
class NarrowOptions:
    """How many channels to remove: as many as cost at most `max_drop` points (default 1), or until `share` (0 to 1) of
    the time predicted on `device` in INT8 is saved. `state_dir`: a folder from which an interrupted call continues.
    """

    max_drop: float | None = None
    share: float | None = None
    device: str = BOARD
    state_dir: Path | None = None

    @property
    def allowed_drop(self) -> float | None:
        """The most points that may be lost; None if only `share` decides."""
        return 1.0 if self.max_drop is None and self.share is None else self.max_drop

    def check(self, scored: bool) -> None:
        """Raise SparsityError for values out of range, CalibrationError for a limit on points without labels."""
        if self.share is not None and not 0 < self.share < 1:
            raise SparsityError(f"share {self.share:g}: needed more than 0 and less than 1")
        if self.max_drop is not None and self.max_drop < 0:
            raise SparsityError(f"max drop {self.max_drop:g}: needed 0 or more points")
        if self.allowed_drop is not None and not scored:
            raise CalibrationError("a limit on the points lost needs labeled data to score on: pass some, or a share")


@dataclass(frozen=True)
class Plan:
    """Channels to remove, the milliseconds predicted then, and what the removals change one by one, added up."""

    dropped: frozenset[int]
    ms: float
    change: float = 0.0


Result = tuple[ModelProto, NarrowReport]


def narrow(
    model: ModelProto,
    batches: Batches,
    options: NarrowOptions | None = None,
    task: Task | None = None,
    progress: Progress = quiet,
) -> Result:
    """Return a copy of `model` with fewer channels, refitted on `batches`, and a report; `model` is not changed.

    Its shapes must be static and its constants folded. Raises SparsityError (channels that cannot be followed, naming
    the node; nothing that may be removed within the limits), CalibrationError (no or bad batches, no score where one is
    needed), ConfigError (an unknown board), ModelError (an open shape).
    """
    options, task = options or NarrowOptions(), task or Task()
    options.check(task.score is not None)
    require_finite(model)
    with blas_on_one_core():
        return Narrowing(model, batches, options, task, progress).run()


class Narrowing:
    """The widths to which a model's blocks may be reduced, and the model without any set of channels.

    The constructor raises what `narrow` raises for the model and the images.
    """

    def __init__(
        self, model: ModelProto, batches: Batches, options: NarrowOptions, task: Task, progress: Progress
    ) -> None:
        weights = None if task.objects is None else PositionWeights.of(task.objects)
        self.model, self.data, self.options, self.task = model, FitData(batches, weights), options, task
        self.progress = progress
        self.board: Board = board(options.device)
        self.coupled = Coupled(model)
        self.ms = self._ms(model)
        self.states = States(options.state_dir, model, self.data, METHOD)

    def run(self) -> Result:
        """Return what `narrow` returns."""
        widths = self.widths()
        plans = self._plans(in_order(widths))
        share, max_drop = self.options.share or 0.0, self.options.allowed_drop
        saved = np.array([self.ms - plan.ms for plan in plans]) / self.ms
        if not plans:
            raise SparsityError(f"no layer is predicted to be faster with fewer channels on {self.board}: leave them")
        if saved[-1] < share:
            raise SparsityError(
                f"removing channels saves at most {saved[-1]:.0%} of the predicted time: needed {share:.0%}; "
                "ask for a smaller share"
            )
        low = int(np.searchsorted(saved, share)) + 1 if share else 0
        best = self._result(plans[low - 1] if low else Plan(frozenset(), self.ms), widths)
        if max_drop is not None:
            if _drop(best) > max_drop:
                raise SparsityError(
                    f"saving {share:.0%} of the predicted time costs {_drop(best):.1f} points, {max_drop:g} are "
                    "allowed: ask for a smaller share, or allow more"
                )
            tried = max(low, sum(plan.change <= HOPELESS for plan in plans))
            search = Search(saved[:tried], STEP, max_drop)
            best = search.run(low, best, lambda count: self._result(plans[count - 1], widths), _drop)
        if not best[1].narrowed:
            raise SparsityError(
                f"no channels can be removed at a cost of {max_drop:.2g} points or less: allow more, or train with "
                "edgesparse distill --student after prune --share"
            )
        return best

    def _ms(self, model: ModelProto) -> float:
        return cost(model, self.board, PRECISION).ms

    def widths(self) -> list[Width]:
        """Return every width of every block that saves time."""
        step = stride(self.data.batches, IMAGES)
        some = FitData(lambda: islice(iter(self.data.batches()), 0, None, step), _every(self.data.weights, step))
        outputs = ReferenceOutputs(self.model, some.batches, self.task.read)
        state, widths = self.states.of(f"importance, {self.options.device}"), list[Width]()
        for i, block in enumerate(self.coupled.blocks):
            self.progress("measuring channels", i, len(self.coupled.blocks))
            saved = state.get(f"block-{i}")
            if saved is None:
                saved = as_arrays(self._of_block(block, some, outputs))
                state.put(f"block-{i}", saved)
            widths += from_arrays(block, saved)
        self.progress("measuring channels", len(self.coupled.blocks), len(self.coupled.blocks))
        return widths

    def _of_block(self, block: Block, data: FitData, outputs: ReferenceOutputs) -> list[Width]:
        gains = {count: self._gain(block.ids[count:]) for count in counts(len(block.ids))}
        useful = [count for count, gain in gains.items() if gain > LEAST * self.ms]
        if not useful:
            return []
        reduced = fewer(self.model, block, useful, data)
        return [
            Width(block, count, reduced[count].dropped, gains[count], change(self.model, reduced[count], outputs))
            for count in useful
        ]

    def _gain(self, dropped: Sequence[int]) -> float:
        try:
            return self.ms - self._ms(self.shape_without(dropped))
        except Inapplicable:
            return 0.0

    def _plans(self, widths: Iterable[Width]) -> list[Plan]:
        """One plan per width, each with the earlier ones; without those that save nothing on top of the others."""
        plans, taken = [Plan(frozenset(), self.ms)], list[Width]()
        for width in widths:
            dropped = plans[-1].dropped | frozenset(width.dropped)
            try:
                ms = self._ms(self.shape_without(dropped))
            except Inapplicable:
                continue
            if ms < plans[-1].ms - LEAST * self.ms:
                alone = {w.block.name: w.change for w in (*taken, width)}
                plans.append(Plan(dropped, ms, sum(alone.values())))
                taken.append(width)
        return plans[1:]

    def _result(self, plan: Plan, widths: Sequence[Width]) -> Result:
        """Return the model without the channels of `plan`, refitted, and its report."""
        if not plan.dropped:
            layers: tuple[NarrowedLayer, ...] = ()
            return self.model, NarrowReport(str(self.board), self.ms, self.ms, layers, self._score, self._score)
        model, fits = self.without(plan.dropped)
        return model, self._report(model, plan, fits, widths)

    def shape_without(self, dropped: Collection[int]) -> ModelProto:
        """Return the model without these channels and not refitted, to predict from. Raises Inapplicable."""
        return remove(self.coupled, self.model, dropped)

    def without(self, dropped: Collection[int]) -> tuple[ModelProto, list[LayerFit]]:
        """Return the model without these channels, all layers refitted, and their fits. Raises what `narrow` raises."""
        state = self.states.of(f"rebuild {sorted(dropped)}")
        whole, fits = rebuild(self.model, (), self.data, state, self.progress, self._inputs(dropped))
        model = remove(self.coupled, whole, dropped)
        self._compare(whole, model)
        return model, fits

    def _inputs(self, dropped: Collection[int]) -> dict[str, Mask]:
        """Which of its input channels each reader keeps."""
        kept = {}
        for use, _ in self.coupled.flow.weights:
            keeps = ~np.isin(self.coupled.find[use.channels.ids], list(dropped))
            if use.axis == 1 and not keeps.all():
                kept[layer_name(use.node)] = keeps
        return kept

    def _compare(self, whole: ModelProto, model: ModelProto) -> None:
        """Raise SparsityError if taking channels out of the graph changed the outputs."""
        names = [output.name for output in model.graph.output]
        first, second = (next(stream(m, lambda: list(islice(self.data.batches(), 1)), names)) for m in (whole, model))
        for name in names:
            moved = float(np.abs(first[name] - second[name]).max() / max(float(np.abs(first[name]).max()), 1e-12))
            if not moved <= SAME:
                raise SparsityError(
                    f"without its channels, output {name} differs by {moved:.1e}: found more than rounding; "
                    "report this model"
                )

    def _report(self, model: ModelProto, plan: Plan, fits: Sequence[LayerFit], widths: Sequence[Width]) -> NarrowReport:
        ms = layer_ms(self.model, self.board, PRECISION), layer_ms(model, self.board, PRECISION)
        alone = {width.block.name: width.change for width in widths if plan.dropped.issuperset(width.dropped)}
        layers = describe(self.coupled, plan.dropped, ms, {fit.name: fit.error for fit in fits}, alone)
        self.progress("scoring", 0, 0)
        score = None if self.task.score is None else self.task.score(model)
        return NarrowReport(str(self.board), self.ms, plan.ms, layers, self._score, score)

    @cached_property
    def _score(self) -> float | None:
        """The score of the model before."""
        self.progress("scoring", 0, 0)
        return None if self.task.score is None else self.task.score(self.model)


def _drop(result: Result) -> float:
    return result[1].drop or 0.0


def _every(weights: PositionWeights | None, step: int) -> PositionWeights | None:
    return None if weights is None else weights.every(step)
