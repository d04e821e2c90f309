"""Builds one candidate after another on the first rung of limits that fits, then loads, times and scores it. A failure
is recorded and never ends the build.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgesparse import device
from edgesparse.backends import Backend, BuildOptions, BuildResult, TensorSpec
from edgesparse.backends.base import Limits
from edgesparse.builder.candidates import CandidatePlan, least_ms
from edgesparse.builder.child.job import BuildJob, JobResult, Scoring, TrialJob, TrialResult
from edgesparse.builder.child.memory import MB, Budget, Spent, rungs, words
from edgesparse.builder.child.timing import Timing
from edgesparse.builder.onnx_files import OnnxFiles
from edgesparse.builder.phases import Phases
from edgesparse.builder.prepare import Build
from edgesparse.builder.resume import Finished, FinishedCandidates
from edgesparse.confidences import ConfidenceShift
from edgesparse.device import state_folder
from edgesparse.errors import EdgeSparseError
from edgesparse.package.manifest import AgreementRecord, Outcome, Score

TIME_IS_UP = "the time limit was reached before"
NEGLIGIBLE = 0.1
"""A rung that saves less than this share of the excess has no lever that matters for this model."""


@dataclass(eq=False)
class Attempt:
    """The outcome of a plan. `outcome` stays `lost` while the candidate may still be chosen."""

    plan: CandidatePlan
    outcome: Outcome = "lost"
    reason: str = ""
    spent: Spent = field(default_factory=Spent)
    phases: Phases = field(default_factory=Phases)
    """`prepare`: its ONNX file, and INT8's calibration where it needs it first; `build`; `test`: time and score it."""
    rung: int = 0
    short: bool = False
    """Whether it failed because of too little memory."""
    result: BuildResult | None = None
    timing: Timing | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    score: Score | None = None
    agreement: AgreementRecord | None = None
    shift: ConfidenceShift | None = None

    def end(self, outcome: Outcome, reason: str) -> Attempt:
        self.outcome, self.reason = outcome, reason
        return self

    def take(self, trial: TrialResult) -> None:
        self.inputs, self.outputs, self.timing = trial.inputs, trial.outputs, trial.timing
        self.score, self.agreement, self.shift = trial.score, trial.agreement, trial.shift

    @property
    def runs(self) -> bool:
        return self.timing is not None


class CandidateBuilder:
    """Builds and tries candidates. The next candidate starts on the rung on which memory sufficed."""

    def __init__(
        self,
        build: Build,
        files: OnnxFiles,
        seconds: float,
        scoring: Scoring,
        finished: FinishedCandidates | None = None,
    ) -> None:
        self._build, self._files, self._seconds, self._scoring = build, files, seconds, scoring
        self._finished = finished
        # Only backends that compile native code have memory levers.
        limits = rungs(build.budget.size, build.recipe.build.level)
        self._rungs = limits if build.backend.native_code else (Limits(),)
        self._first = 0
        self._no_room = ""
        self._own_layout, self.notes = True, tuple[str, ...]()

    def attempt(self, plan: CandidatePlan, best: Attempt | None) -> Attempt:
        """Build and try a plan. `best` is the fastest attempt so far."""
        attempt = Attempt(plan)
        if time.monotonic() > self._build.workers.deadline:
            return attempt.end("skipped", TIME_IS_UP)
        if self._no_room:
            attempt.short = True
            return attempt.end("failed", f"does not fit into {self._build.budget}: {self._no_room}")
        if best is not None and best.timing is not None:
            least = least_ms(plan, self._build.prepared)
            if least is not None and least > best.timing.median_ms:
                reason = f"at least {least:.2f} ms are predicted on this board, {best.plan.name} runs in "
                return attempt.end("skipped", f"cannot win: {reason}{best.timing.median_ms:.2f} ms")
        try:
            with attempt.phases.phase("prepare"):
                onnx, options = self._files.onnx(plan), self._options(plan)
                own = self._files.own_layout(plan) if self._own_layout else None
        except EdgeSparseError as error:
            return attempt.end("failed", str(error))
        if own is None:
            return self._build_and_try(attempt, onnx, options)
        first = self._build_and_try(attempt, own[0], replace(options, image=own[1]))
        if first.outcome != "failed" or first.short:
            return first
        second = self._build_and_try(Attempt(plan, phases=attempt.phases), onnx, options)
        if second.runs:
            self._own_layout = False
            self.notes = (f"engines take the image as the model has it: otherwise {plan.name} fails: {first.reason}",)
        return second

    def _build_and_try(self, attempt: Attempt, onnx: Path, options: BuildOptions) -> Attempt:
        plan = attempt.plan
        key = self._finished.key(plan.name, onnx, options) if self._finished is not None else ""
        if self._resume(attempt, key, onnx):
            return attempt
        with attempt.phases.phase("build"):
            self._build_down(attempt, onnx, options)
        if attempt.result is not None and (trial := self._try(attempt, attempt.result)) is not None:
            attempt.take(trial)
            if self._finished is not None:
                self._finished.save(key, Finished(attempt.rung, attempt.spent, attempt.result, trial))
        return attempt

    def _resume(self, attempt: Attempt, key: str, onnx: Path) -> bool:
        """Take the candidate from an interrupted build, if that finished it within this one's memory; return whether
        so.
        """
        if self._finished is None:
            return False
        out = onnx.parent / f"{attempt.plan.name.replace(':', 'to')}-resumed{self._build.backend.suffix}"
        entry = self._finished.load(key, out)
        if entry is None or not self._fits(entry.spent):
            return False
        self._build.workers.progress(f"{attempt.plan.name}: taken from an interrupted build", 0, 0)
        attempt.rung, attempt.spent, attempt.result = entry.rung, entry.spent, entry.built
        attempt.take(entry.trial)
        return True

    def _options(self, plan: CandidatePlan) -> BuildOptions:
        recipe, backend = self._build.recipe, self._build.backend
        batch = recipe.build.batch
        return BuildOptions(
            threads=recipe.build.threads,
            simplify=recipe.prepare.simplify,
            precision=plan.precision,
            sparse=plan.sparse,
            table=self._files.table() if plan.way == "int8-table" else None,
            images=self._files.images() if plan.way == "int8-tensorrt" else None,
            profile=(batch.min, batch.opt, batch.max) if batch.open and backend.open_batch else None,
            dla=recipe.build.dla,
            timing_cache=_timing_cache(backend) if backend.native_code else None,
        )

    def _build_down(self, attempt: Attempt, onnx: Path, options: BuildOptions) -> None:
        """Build on tighter and tighter rungs until one fits. A degraded engine gets another try on the next rung."""
        budget = self._build.budget
        rung: int | None = self._first
        problem, before = "", None
        while rung is not None and rung < len(self._rungs):
            ended = self._compile(attempt.plan, onnx, replace(options, limits=self._rungs[rung]), rung)
            if ended.value is not None and self._fits(ended.spent):
                if not _keep(attempt, ended.value, ended.spent, rung):
                    break
                rung += 1
                continue
            if attempt.result is not None:
                break
            attempt.spent = _smaller(attempt.spent, ended.spent, budget)
            if ended.how in ("time", "error", "crash", "hang"):
                attempt.end("failed", str(ended.error))
                return
            problem = str(ended.error) if ended.error else f"took {ended.spent.under(budget.where) / MB:,.0f} MB"
            rung, before = self._next(rung, ended.spent, before), ended.spent
        if attempt.result is None:
            self._first, attempt.short = len(self._rungs) - 1, True
            reason = self._no_room or f"with {words(self._rungs[-1])}"
            attempt.end("failed", f"did not fit into {budget}: {problem}, {reason}")
        elif not attempt.result.degraded:
            self._first = attempt.rung

    def _next(self, rung: int, spent: Spent, before: Spent | None) -> int | None:
        """Return the rung after one that did not fit: the last rung if more than the workspace was too much, or if the
        rung saved next to nothing compared with the one `before`; None if the library by itself is too large.
        """
        last, budget, workspace = len(self._rungs) - 1, self._build.budget, self._rungs[rung].workspace
        if rung == last or self._hopeless(spent):
            return None
        used = spent.under(budget.where)
        if budget.size is None or used <= budget.size:
            return rung + 1
        floor = used - workspace if workspace is not None else 0
        saved = before.under(budget.where) - used if before else used
        return last if floor > budget.size or saved < NEGLIGIBLE * (used - budget.size) else rung + 1

    def _hopeless(self, spent: Spent) -> bool:
        """Whether no rung can help because the library alone exceeds the budget."""
        size, where = self._build.budget.size, self._build.budget.where
        if size is None or spent.loaded is None or spent.loaded <= size:
            return False
        subject = f"CUDA and {self._build.backend.name} take" if where != "host" else "the process takes"
        self._no_room = f"{subject} {spent.loaded / MB:,.0f} MB before anything is built"
        return True

    def _compile(self, plan: CandidatePlan, onnx: Path, options: BuildOptions, rung: int) -> JobResult[BuildResult]:
        backend, workers = self._build.backend, self._build.workers
        out = onnx.parent / f"{plan.name.replace(':', 'to')}-{rung}{backend.suffix}"
        workers.progress(f"building {plan.name}", 0, 0)
        cached = options.timing_cache is not None and options.timing_cache.exists()
        ended = workers.run(BuildJob(backend.name, onnx, out, options))
        if ended.how == "crash" and cached:  # a cache that crashes the library must not fail every build
            ended = workers.run(BuildJob(backend.name, onnx, out, replace(options, timing_cache=None)))
        return ended

    def _fits(self, spent: Spent) -> bool:
        budget = self._build.budget
        return not self._build.backend.native_code or budget.size is None or spent.under(budget.where) <= budget.size

    def _try(self, attempt: Attempt, result: BuildResult) -> TrialResult | None:
        settings = self._build.recipe.build
        job = TrialJob(
            backend=self._build.backend.name,
            name=attempt.plan.name,
            engine=result.path,
            spec=self._build.prepared.spec,
            seconds=self._seconds,
            threads=settings.threads,
            dla=settings.dla,
            scoring=self._scoring,
        )
        with attempt.phases.phase("test"):
            ended = self._build.workers.run(job)
        if ended.value is None:
            attempt.end("failed", f"was built and cannot run: {ended.error}")
        return ended.value


def _keep(attempt: Attempt, result: BuildResult, spent: Spent, rung: int) -> bool:
    """Keep the result unless the previous one is as good. Returns whether the next rung is worth a try."""
    before = attempt.result
    if before is None or len(result.degraded) < len(before.degraded):
        attempt.result, attempt.rung, attempt.spent = result, rung, spent
    return before is None and bool(result.degraded)


def _smaller(a: Spent, b: Spent, budget: Budget) -> Spent:
    """Return the smaller of the measured ones: the least memory that is needed."""
    return min((spent for spent in (a, b) if spent != Spent()), key=lambda s: s.under(budget.where), default=a)


def _timing_cache(backend: Backend) -> Path | None:
    """Return the timing cache's path: one per device and release, since times from elsewhere mean nothing here."""
    machine = device.probe()
    name = "-".join((backend.name, backend.probe().version, machine.gpu or machine.model or machine.arch, machine.sm))
    folder = state_folder() / "timing"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder / f"{''.join(c if c.isalnum() or c in '.-' else '_' for c in name)}.cache"
