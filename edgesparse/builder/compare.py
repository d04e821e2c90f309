"""Builds, tries and judges every candidate, times those that run, interleaved, and chooses one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from edgesparse import device
from edgesparse.backends import Backend
from edgesparse.builder import choose
from edgesparse.builder.attempts import TIME_IS_UP, Attempt, CandidateBuilder
from edgesparse.builder.candidates import CandidatePlans, listing_order, plan_candidates
from edgesparse.builder.child.job import RaceJob
from edgesparse.builder.child.memory import MB, Budget, Spent, budget
from edgesparse.builder.child.process import Workers
from edgesparse.builder.choose import Proof
from edgesparse.builder.gate import Gate, all_refused
from edgesparse.builder.onnx_files import OnnxFiles
from edgesparse.builder.phases import Phases
from edgesparse.builder.prepare import Build, prepare
from edgesparse.builder.resume import FinishedCandidates
from edgesparse.builder.slimmed import wants_slim, with_slim
from edgesparse.config import Recipe
from edgesparse.errors import BuildError, MemoryBudgetExceeded
from edgesparse.progress import Progress

BUILDING = 0.9
"""Share of the time limit for building candidates; the rest is for timing them interleaved."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of a build. `fallback` is the most precise engine that runs, possibly the chosen one."""

    build: Build
    attempts: tuple[Attempt, ...]
    chosen: Attempt
    fallback: Attempt
    proofs: tuple[Proof, ...]
    notes: tuple[str, ...]
    clocks: str
    phases: Phases
    """`model`: read and rewrite it; `reference`: score it; `candidates`: prepare, build and test each; `timing`: all of
    them interleaved."""
    kept: FinishedCandidates | None = None
    """What a build that is interrupted from here on continues with; None if candidates are missing for want of time."""

    @property
    def verdict(self) -> tuple[str, ...]:
        """A line for each pair of a 2:4 engine and its dense twin, then notes."""
        return (*map(str, self.proofs), *self.notes)


def compare_candidates(
    recipe: Recipe, backend: Backend, folder: Path, seconds: float, progress: Progress, *, resume: bool | None = None
) -> Comparison:
    """Build and compare the candidates of a recipe in `folder`, each timed for `seconds`.

    Finished candidates are kept on this device, so that a later call with `resume` reuses them, until the caller
    forgets those `kept`; with None, nothing is kept. Raises ModelError, ConfigError, and BuildError if no candidate is
    left: MemoryBudgetExceeded, AccuracyGateFailed, SparsityNotAchieved if that is the reason.
    """
    folder, gate = folder.absolute(), Gate(recipe)  # child processes run in another folder
    begun, limit, phases = time.monotonic(), recipe.build.time_limit or inf, Phases()
    progress("reading the model", 0, 0)
    with phases.phase("model"):
        prepared = prepare(recipe, folder)
        if wants_slim(recipe, backend, prepared):
            prepared = with_slim(prepared, folder, progress)
    plans = plan_candidates(recipe, backend, prepared)
    memory = budget(backend, recipe.build.memory)
    workers = Workers(backend, folder, memory.where, begun + BUILDING * limit, progress)
    build = Build(recipe, backend, folder, prepared, workers, memory)
    with phases.phase("reference"):
        gate.prepare(prepared, folder, progress)
    files = OnnxFiles(build, gate.int8_target())
    finished = FinishedCandidates(build, gate.scoring(), resume) if resume is not None else None
    builder = CandidateBuilder(build, files, seconds, gate.scoring(), finished)
    with phases.phase("candidates"):
        attempts = _attempts(builder, plans, gate)
    kept = None if any(attempt.reason == TIME_IS_UP for attempt in attempts) else finished
    passed = [attempt for attempt in attempts if attempt.outcome == "lost"]
    if not passed:
        if kept is not None:
            kept.forget()
        raise none_left(attempts, memory)
    workers.deadline = begun + limit
    with phases.phase("timing"):
        clocks, notes = _race(build, attempts, seconds)
    chosen = choose.settle(passed, gate.words)
    proofs = choose.proofs(attempts, prepared.layers)
    if recipe.accept.require_sparse:
        choose.require_sparse(chosen, proofs)
    usable = (attempt for attempt in attempts if attempt.runs and attempt.outcome != "refused")
    fallback = min(usable, key=lambda attempt: attempt.plan.caution)
    impossible = [Attempt(plan).end("skipped", reason) for plan, reason in plans.impossible]
    notes = (*plans.notes, *files.notes(), *builder.notes, *notes)
    return Comparison(build, (*attempts, *impossible), chosen, fallback, proofs, notes, clocks, phases, kept)


def _attempts(builder: CandidateBuilder, plans: CandidatePlans, gate: Gate) -> list[Attempt]:
    attempts: list[Attempt] = []
    for plan in plans.possible:
        best = min((a for a in attempts if a.outcome == "lost"), key=choose.milliseconds, default=None)
        attempt = builder.attempt(plan, best)
        if attempt.runs and (reason := gate.refusal(attempt)):
            attempt.end("refused", reason)
        attempts.append(attempt)
    return sorted(attempts, key=lambda attempt: listing_order(attempt.plan))


def _race(build: Build, attempts: Sequence[Attempt], seconds: float) -> tuple[str, tuple[str, ...]]:
    """Time all engines that run, interleaved. Returns the clocks, and a note if that failed."""
    running = {attempt.plan.name: attempt for attempt in attempts if attempt.runs}
    if len(running) < 2:
        return str(device.clocks()), ()
    engines = {name: attempt.result.path for name, attempt in running.items() if attempt.result}
    settings = build.recipe.build
    ended = build.workers.run(RaceJob(build.backend.name, engines, seconds, settings.threads, settings.dla))
    if ended.value is None:
        return str(device.clocks()), (f"timed one after the other, not interleaved: {ended.error}",)
    for name, timing in ended.value.timings.items():
        running[name].timing = timing
    return ended.value.clocks, ()


def none_left(attempts: Sequence[Attempt], memory: Budget) -> BuildError:
    """Return the error for a build without a usable candidate, with the reasons."""
    refused = [attempt for attempt in attempts if attempt.outcome == "refused"]
    if refused:
        return all_refused(refused)
    short = [attempt for attempt in attempts if attempt.short and attempt.spent != Spent()]
    if short:
        return _too_little_memory(min(short, key=lambda attempt: attempt.spent.under(memory.where)), memory)
    reasons = "; ".join(f"{attempt.plan.name}: {attempt.reason}" for attempt in attempts)
    return BuildError(f"no candidate could be built: {reasons}: 'edgesparse inspect MODEL.onnx' may say more")


def _too_little_memory(smallest: Attempt, memory: Budget) -> MemoryBudgetExceeded:
    spent = smallest.spent
    needed = f"{smallest.plan.name} took {spent.under(memory.where) / MB:,.0f} MB"
    if spent.loaded is not None:
        subject = "the process and its libraries" if memory.where == "host" else "CUDA and the library"
        needed += f", {spent.loaded / MB:,.0f} MB of it {subject} before anything is built"
    fix = {
        "gpu": "stop other programs on the GPU, or raise build.memory",
        "shared": "stop the desktop (sudo systemctl isolate multi-user.target) and other programs, add swap, "
        "or raise build.memory",
        "host": "stop other programs, or raise build.memory",
    }[memory.where]
    return MemoryBudgetExceeded(f"no candidate fits into {memory}: {needed}: {fix}")
