"""One candidate after the other: built on the first rung that fits, loaded, timed, scored. Nothing that goes wrong with
one ends the build."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.backends import Backend, BuildOptions, BuildResult
from edgesparse.backends.base import Limits
from edgesparse.builder.candidates import Plan, least_ms
from edgesparse.builder.child.memory import MB, Budget, Spent, rungs, words
from edgesparse.builder.child.process import Ended, Workers
from edgesparse.builder.child.timing import Timing
from edgesparse.builder.child.worker import plain, read_result
from edgesparse.builder.onnx_files import Sources
from edgesparse.builder.prepare import Prepared
from edgesparse.config import Recipe
from edgesparse.device import state_folder
from edgesparse.errors import EdgeSparseError
from edgesparse.package.manifest import Agreement, Outcome, Score

HARDLY = 0.1
"""Of what is too much: a rung that saves less has no lever that matters here."""


@dataclass(eq=False)
class Tried:
    """What became of a plan. `outcome` is `lost` while it may still win."""

    plan: Plan
    outcome: Outcome = "lost"
    reason: str = ""
    spent: Spent = field(default_factory=Spent)
    rung: int = 0
    short: bool = False
    """Whether it failed for want of memory."""
    result: BuildResult | None = None
    timing: Timing | None = None
    inputs: tuple[Mapping[str, Any], ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()
    score: Score | None = None
    agreement: Agreement | None = None

    def ends(self, outcome: Outcome, reason: str) -> Tried:
        self.outcome, self.reason = outcome, reason
        return self

    @property
    def runs(self) -> bool:
        return self.timing is not None


class Attempts:
    """Tries candidates, and remembers on which rung memory sufficed: the next one begins there."""

    def __init__(
        self, recipe: Recipe, engine: Backend, prepared: Prepared, sources: Sources, workers: Workers, budget: Budget
    ) -> None:
        self._recipe, self._engine, self._prepared, self._sources = recipe, engine, prepared, sources
        self._workers, self._budget = workers, budget
        # Only what compiles native code has levers.
        self._rungs = rungs(budget.size, recipe.build.level) if engine.native_code else (Limits(),)
        self._first = 0
        self._no_room = ""

    def attempt(self, plan: Plan, best: Tried | None, trial: Mapping[str, Any]) -> Tried:
        """Build and try a plan; `best` is the fastest so far, `trial` what the worker's task is asked for."""
        tried = Tried(plan)
        if time.monotonic() > self._workers.deadline:
            return tried.ends("skipped", "the time limit was reached before")
        if self._no_room:
            tried.short = True
            return tried.ends("failed", f"does not fit into {self._budget}: {self._no_room}")
        if best is not None and best.timing is not None:
            least = least_ms(plan, self._prepared)
            if least is not None and least > best.timing.median_ms:
                why = f"its products alone take {least:.2f} ms on this board, {best.plan.name} runs in "
                return tried.ends("skipped", f"cannot win: {why}{best.timing.median_ms:.2f} ms")
        try:
            onnx = self._sources.onnx(plan)
            options = self._options(plan)
        except EdgeSparseError as error:
            return tried.ends("failed", str(error))
        self._build(tried, onnx, options)
        if tried.result is not None:
            self._try(tried, trial)
        return tried

    def _options(self, plan: Plan) -> BuildOptions:
        batch = self._recipe.build.batch
        return BuildOptions(
            threads=self._recipe.build.threads,
            simplify=self._recipe.prepare.simplify,
            precision=plan.precision,
            sparse=plan.sparse,
            table=self._sources.table() if plan.way == "int8-table" else None,
            images=self._sources.images() if plan.way == "int8-tensorrt" else None,
            profile=(batch.min, batch.opt, batch.max) if batch.open and self._engine.open_batch else None,
            dla=self._recipe.build.dla,
            timing_cache=_timing_cache(self._engine) if self._engine.native_code else None,
        )

    def _build(self, tried: Tried, onnx: Path, options: BuildOptions) -> None:
        """Down the rungs until one fits. A degraded engine gets one more chance on the next."""
        rung: int | None = self._first
        said, before = "", None
        while rung is not None and rung < len(self._rungs):
            ended = self._compile(tried.plan, onnx, replace(options, limits=self._rungs[rung]), rung)
            if ended.result is not None and self._fits(ended.spent):
                if not self._keep(tried, read_result(ended.result), ended.spent, rung):
                    break
                rung += 1
                continue
            if tried.result is not None:
                break
            tried.spent = _less(tried.spent, ended.spent, self._budget)
            if ended.how in ("time", "error", "crash", "hang"):
                tried.ends("failed", str(ended.error))
                return
            said = str(ended.error) if ended.error else f"took {ended.spent.under(self._budget.where) / MB:,.0f} MB"
            rung, before = self._next(rung, ended.spent, before), ended.spent
        if tried.result is None:
            self._first, tried.short = len(self._rungs) - 1, True
            why = self._no_room or f"with {words(self._rungs[-1])}"
            tried.ends("failed", f"did not fit into {self._budget}: {said}, {why}")
        elif not tried.result.degraded:
            self._first = tried.rung

    def _keep(self, tried: Tried, result: BuildResult, spent: Spent, rung: int) -> bool:
        """Take the result unless one that is there is as good; returns whether the next rung is worth a try."""
        before = tried.result
        if before is None or len(result.degraded) < len(before.degraded):
            tried.result, tried.rung, tried.spent = result, rung, spent
        return before is None and bool(result.degraded)

    def _next(self, rung: int, spent: Spent, before: Spent | None) -> int | None:
        """The rung after one that did not fit: the last where the workspace alone is not what was too much, or where it
        took hardly less than on the rung `before`; none where the library by itself takes too much."""
        last, size, workspace = len(self._rungs) - 1, self._budget.size, self._rungs[rung].workspace
        if rung == last or self._hopeless(spent):
            return None
        took = spent.under(self._budget.where)
        if size is None or took <= size:
            return rung + 1
        floor = took - workspace if workspace is not None else 0
        saved = before.under(self._budget.where) - took if before else took
        return last if floor > size or saved < HARDLY * (took - size) else rung + 1

    def _hopeless(self, spent: Spent) -> bool:
        """Whether no rung can help: what is taken before anything is built is more than there is."""
        size = self._budget.size
        if size is None or spent.loaded is None or spent.loaded <= size:
            return False
        why = f"CUDA and {self._engine.name} take" if self._budget.where != "host" else "the process takes"
        self._no_room = f"{why} {spent.loaded / MB:,.0f} MB before anything is built"
        return True

    def _compile(self, plan: Plan, onnx: Path, options: BuildOptions, rung: int) -> Ended:
        out = onnx.parent / f"{plan.name.replace(':', 'to')}-{rung}{self._engine.suffix}"
        self._workers.progress(f"building {plan.name}", 0, 0)
        cached = options.timing_cache is not None and options.timing_cache.exists()
        ended = self._workers.run("build", onnx=str(onnx), out=str(out), options=plain(options))
        if ended.how == "crash" and cached:  # a cache that makes the library crash must not end every build
            bare = plain(replace(options, timing_cache=None))
            ended = self._workers.run("build", onnx=str(onnx), out=str(out), options=bare)
        return ended

    def _fits(self, spent: Spent) -> bool:
        size = self._budget.size
        return not self._engine.native_code or size is None or spent.under(self._budget.where) <= size

    def _try(self, tried: Tried, trial: Mapping[str, Any]) -> None:
        assert tried.result is not None
        how = {"threads": self._recipe.build.threads, "dla": self._recipe.build.dla}
        ended = self._workers.run("trial", name=tried.plan.name, path=str(tried.result.path), **how, **trial)
        if ended.result is None:
            tried.ends("failed", f"was built and cannot run: {ended.error}")
            return
        said = ended.result
        tried.inputs, tried.outputs = tuple(said["inputs"]), tuple(said["outputs"])
        tried.timing = Timing(**said["timing"])
        tried.score = Score(**said["score"]) if "score" in said else None
        tried.agreement = Agreement(**said["agreement"]) if "agreement" in said else None


def _less(a: Spent, b: Spent, budget: Budget) -> Spent:
    """The one that took less, of those that took anything: how much is needed at least."""
    return min((spent for spent in (a, b) if spent != Spent()), key=lambda s: s.under(budget.where), default=a)


def _timing_cache(engine: Backend) -> Path | None:
    """One a device and release, since what was timed elsewhere says nothing here."""
    machine = device.probe()
    name = "-".join((engine.name, engine.probe().version, machine.gpu or machine.model or machine.arch, machine.sm))
    folder = state_folder() / "timing"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder / f"{''.join(c if c.isalnum() or c in '.-' else '_' for c in name)}.cache"
