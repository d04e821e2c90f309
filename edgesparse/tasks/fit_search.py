"""The search of `fit`: for each network to start from, the best plans within any change, and the fastest that scores.

A budget of points cannot be added up over layers, a change of the outputs can: so a knapsack gives, per kind of choice
and allowed change, the plan that saves most, and trials on whole networks find the largest change that the budget
allows. Each trial is made, predicted and scored as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import inf
from time import monotonic

import numpy as np

from edgesparse.errors import BuildError, EdgeSparseError
from edgesparse.progress import Progress
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.labels.read import Labels
from edgesparse.sparsity.search import Search as Trials
from edgesparse.tasks import fit_network
from edgesparse.tasks.fit_build import Timing
from edgesparse.tasks.fit_changes import CHANNELS, INT8, RELU, SPARSE
from edgesparse.tasks.fit_choices import Choices, Plan
from edgesparse.tasks.fit_costs import Costs
from edgesparse.tasks.fit_network import Network, NotWorthIt, Settings
from edgesparse.tasks.fit_report import AGREEMENT, MAP, FitReport, Rung
from edgesparse.tasks.fit_stages import Stages

LEAST = 0.01
"""The saving, as a share of the predicted time, below which another network is not worth a trial."""
DEFAULT_DROP = {MAP: 1.0, AGREEMENT: 15.0}
"""The points that may be lost by default, by what they are of."""
KINDS = (INT8, SPARSE, RELU, CHANNELS)
ROUNDS = 3
"""Searches with the same kinds of choices, each without the channels that cost the last one too much."""


class TimeUp(BuildError):
    """The search ran past --minutes."""


@dataclass(frozen=True)
class Judges:
    """The labels to choose on, those that the result is reported on, and what a score on them is."""

    choosing: Labels
    evaluation: Labels | None
    measure: str


@dataclass(frozen=True)
class Trial:
    """A network that was made and scored on the images to choose on: `drop` are the points that it loses.

    `stages`: the networks that led to it, with what each added. `error`: why there is none.
    """

    name: str
    stages: tuple[tuple[str, Network], ...] = ()
    plan: Plan = field(default_factory=Plan)
    score: float = 0.0
    drop: float = 0.0
    error: str = ""

    @property
    def network(self) -> Network:
        return self.stages[-1][1]

    @property
    def label(self) -> str:
        return f"{self.name}, {self.network.ms:.2f} ms" if self.stages else self.name


class Search:
    """One call of `fit`: what was tried, and the fastest network within the budget so far."""

    def __init__(self, base: Network, settings: Settings, judges: Judges, costs: Costs, progress: Progress) -> None:
        self.settings, self.judges, self.costs, self.progress = settings, judges, costs, progress
        options = settings.options
        self.budget = DEFAULT_DROP[judges.measure] if options.max_drop is None else options.max_drop
        self.deadline = None if options.minutes is None else monotonic() + 60 * options.minutes
        self.stages = Stages(settings, costs, self._checked)
        self.trials, self.notes = list[Trial](), list[Rung]()
        base = replace(base, ms=fit_network.milliseconds(base, settings))
        self.reference = self.score(base, judges.choosing)
        half = replace(base, precision="fp16")
        half = replace(half, ms=fit_network.milliseconds(half, settings))
        self.base, self.half = base, half
        self.best = Trial("FP16", (("FP32", base), ("FP16", half)), score=self.reference)
        self.trials.append(self.best)

    def run(self) -> None:
        """Try what every start offers, the fastest first, until the target is met or the time is up."""
        try:
            for name, start in self._starts():
                self._from(name, start)
        except TimeUp:
            self._note("search", "the time of --minutes was up: run the same command to continue")
        self.deadline = None  # what was measured is always scored

    @property
    def within_budget(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.error and trial.drop <= self.budget]

    @property
    def _met(self) -> bool:
        target = self.settings.options.target_ms
        return target is not None and self.best.network.ms <= target

    def _starts(self) -> list[tuple[str, Network]]:
        """Return the networks to start from, by the least time that each may reach (predicted), which is set."""
        able = list[tuple[str, Network]]()
        for name, start in fit_network.starts(self.half, self.settings, self._checked):
            if isinstance(start, NotWorthIt):
                self._note(name, str(start))
            else:
                able.append((name, replace(start, ms=fit_network.least_milliseconds(start, self.settings))))
        return sorted(able, key=lambda each: each[1].ms)

    def _from(self, name: str, start: Network) -> None:
        """Try each set of kinds of choices on one network: INT8 alone first, which most of the time comes from."""
        shown = name or "original"
        if self._met:
            return self._note(shown, "the target is met")
        if start.ms > (1 - LEAST) * self.best.network.ms:
            return self._note(shown, f"in INT8 and 2:4 predicted to take {start.ms:.2f} ms or more: not faster")
        drop = self.reference - self.score(start, self.judges.choosing)
        if drop > self.budget:
            return self._note(shown, f"loses {drop:.1f} points in float: {self.budget:g} are allowed")
        floating = Trial(name, self._to(name, start), score=self.reference - drop, drop=drop)
        if floating.network.ms <= (1 - LEAST) * self.best.network.ms:
            self._add(floating)
        choices = Choices(start, self.settings, self._checked)
        able = []
        for kind in KINDS:
            self._show(f"fit: {kind} of {shown}")
            if reason := choices.obstacle(kind):
                self._note(_named(name, (kind,)), reason)
            else:
                able.append(kind)
        sets = _sets(able)
        for number, kinds in enumerate(sets):
            if self._met:
                return None
            self.progress(f"fit: {_named(name, kinds)}", number, len(sets))
            self._retried(_named(name, kinds), start, choices, kinds)
        return None

    def _retried(self, name: str, start: Network, choices: Choices, kinds: Sequence[str]) -> None:
        """Search, and where channels cost more than their changes say, again without the worst of them."""
        for _ in range(ROUNDS):
            best, count = self.best, len(self.trials)
            self._search(name, start, choices, self._worth(choices.plans(kinds)))
            failed = [trial.plan for trial in self.trials[count:] if trial.drop > self.budget]
            if self.best is not best or not failed or not choices.avoid(min(failed, key=lambda plan: plan.change)):
                return

    def _worth(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans that are faster than the best network so far, up to the first that meets the target."""
        faster = [plan for plan in plans if plan.ms <= (1 - LEAST) * self.best.network.ms]
        target = self.settings.options.target_ms
        meeting = [] if target is None else [at for at, plan in enumerate(faster) if plan.ms <= target]
        return faster[: meeting[0] + 1] if meeting else faster

    def _search(self, name: str, start: Network, choices: Choices, plans: Sequence[Plan]) -> None:
        """Find the fastest of `plans`, which are in the order of their changes, within the budget."""
        if not plans:
            return self._note(name, "no plan is predicted to be faster than the best so far")
        saved = np.array([self.best.network.ms - plan.ms for plan in plans])
        target = self.settings.options.target_ms
        first = sum(plan.change <= self.best.plan.change for plan in plans) or None
        if not self.best.plan.change or (target is not None and plans[-1].ms <= target):
            first = len(plans)
        search = Trials(saved, LEAST * self.best.network.ms, self.budget)
        search.run(0, self.best, lambda at: self._tried(name, start, choices, plans[at - 1]), _drop, first)
        return None

    def _tried(self, name: str, start: Network, choices: Choices, plan: Plan) -> Trial:
        self._show(f"fit: {name}, {plan.ms:.2f} ms")
        try:
            stages = (*self._to(name, start), *self.stages.of(start, plan, choices))
            score = self.score(stages[-1][1], self.judges.choosing)
            trial = Trial(name, stages, plan, score, self.reference - score)
        except TimeUp:
            raise
        except EdgeSparseError as error:
            trial = Trial(name, plan=plan, drop=inf, error=str(error))
        return self._add(trial)

    def _add(self, trial: Trial) -> Trial:
        """Record a trial; the fastest within the budget is the best."""
        self.trials.append(trial)
        if trial.drop <= self.budget and trial.network.ms < self.best.network.ms:
            self.best = trial
        return trial

    def _to(self, name: str, start: Network) -> tuple[tuple[str, Network], ...]:
        """The stages up to a start, which is one itself unless it is the original."""
        first = (("FP32", self.base), ("FP16", self.half))
        if start.model == self.base.model:
            return first
        half = replace(start, precision="fp16")
        return (*first, (name.split(" + ")[0], replace(half, ms=fit_network.milliseconds(half, self.settings))))

    def report(self, timings: Mapping[str, Timing]) -> tuple[FitReport, Network]:
        """Return the ladder to the fastest engine or, if none was timed, the best network; and that network."""
        timed = {label: timing.ms for label, timing in timings.items() if timing.ms is not None}
        fastest = min(timed, key=lambda label: timed[label], default="")
        best = next((trial for trial in self.within_budget if trial.label == fastest), self.best)
        trials = tuple(self._point(trial, trial is best, timings.get(trial.label)) for trial in self.trials)
        before = (None, *(network for _, network in best.stages))
        rungs = [self._rung(*stage, earlier, best.plan) for stage, earlier in zip(best.stages, before, strict=False)]
        if (timing := timings.get(best.label)) is not None:
            rungs[-1] = replace(rungs[-1], measured=timing.ms, engine=timing.engine)
        options, model = self.settings.options, self.settings.source.model.name
        every = (*rungs, *self.notes)
        return FitReport(
            model, options.device, self.budget, options.target_ms, every, self.judges.measure, trials
        ), best.network

    def _rung(self, name: str, network: Network, before: Network | None, plan: Plan) -> Rung:
        """One stage of the ladder, and what it brought."""
        score = self.score(network, self.judges.choosing)
        labels = self.judges.evaluation
        evaluated = None if labels is None else self.score(network, labels)
        if before is None:
            why = "where the ladder starts"
        elif network.precision == "fp16" and before.precision == "fp32":
            why = "scored in FP32: ONNX Runtime has no FP16 kernels here"
        else:
            lost = round(self.reference - score, 1) + 0.0  # not -0.0
            why = f"saves {before.ms - network.ms:.2f} ms (predicted); {lost:.1f} points lost so far"
            counts = {RELU: f"; layers with ReLU: {len(plan.relu)}", SPARSE: f"; 2:4 layers: {len(network.sparse)}"}
            why += counts.get(name, "")
            why += f"; {len(network.floats)} layers in FP16" if network.floats and network.quantized else ""
        return Rung(name, "kept", why, network.ms, score, evaluated)

    def _point(self, trial: Trial, chosen: bool, timing: Timing | None) -> Rung:
        """One network that was tried, for the page."""
        if trial.error:
            return Rung(trial.name, "dropped", trial.error)
        fits = trial.drop <= self.budget
        why = f"loses {trial.drop:.1f} points" + ("" if fits else f": {self.budget:g} are allowed")
        outcome = "chosen" if chosen else "within the budget" if fits else "dropped"
        measured, engine = (None, "") if timing is None else (timing.ms, timing.engine)
        return Rung(trial.name, outcome, why, trial.network.ms, trial.score, None, measured, engine)

    def score(self, network: Network, labels: Labels) -> float:
        """Score a network with ONNX Runtime, once."""
        key = self.costs.score_key(network, labels)
        if key not in self.costs.scores:
            model, spec = fit_network.scored(network)
            scorer = ModelScorer(spec, labels, lambda done, total: self._checked("scoring", done, total))
            self.costs.put_score(key, scorer(model))
        return self.costs.scores[key]

    def _note(self, name: str, why: str) -> None:
        self.notes.append(Rung(name, "not tried", why))

    def _show(self, what: str) -> None:
        self._checked(what, 0, 0)

    def _checked(self, step: str, done: int, total: int) -> None:
        if self.deadline is not None and monotonic() > self.deadline:
            raise TimeUp("the time of --minutes was up before the original was scored: allow more")
        self.progress(step, done, total)


def _sets(able: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the sets of kinds to search with, the smallest first.

    INT8 is in each if there is any, since a plan may leave any layer in FP16; and 2:4 wherever ReLU is, since layers
    that can be 2:4 without it gain as much.
    """
    sets = [kinds for count in range(1, len(able) + 1) for kinds in combinations(able, count)]
    if INT8 in able:
        sets = [kinds for kinds in sets if INT8 in kinds]
    return [kinds for kinds in sets if SPARSE in kinds or SPARSE not in able or RELU not in kinds]


def _named(start: str, kinds: Sequence[str]) -> str:
    return " + ".join((*((start,) if start else ()), *kinds))


def _drop(trial: Trial) -> float:
    return trial.drop
