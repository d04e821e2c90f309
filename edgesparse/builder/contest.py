"""Every candidate built, tried and judged; then all of them timed by turns, and one chosen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from edgesparse import device
from edgesparse.backends import Backend
from edgesparse.builder import choose
from edgesparse.builder.attempts import Attempts, Tried
from edgesparse.builder.candidates import plan
from edgesparse.builder.child.memory import MB, Budget, Spent, budget
from edgesparse.builder.child.process import Workers
from edgesparse.builder.child.timing import Timing
from edgesparse.builder.choose import Proof
from edgesparse.builder.gate import Gate, all_refused
from edgesparse.builder.onnx_files import Sources
from edgesparse.builder.prepare import Prepared, prepare
from edgesparse.config import Recipe
from edgesparse.errors import BuildError, MemoryBudgetExceeded
from edgesparse.progress import Progress

CANDIDATES = 0.9
"""Share of the time limit in which candidates are built; the rest is for timing them by turns."""


@dataclass(frozen=True)
class Contest:
    """What came out: `fallback` is the most precise engine that runs, maybe the chosen one itself."""

    prepared: Prepared
    budget: Budget
    tried: tuple[Tried, ...]
    chosen: Tried
    fallback: Tried
    proofs: tuple[Proof, ...]
    notes: tuple[str, ...]
    clocks: str

    @property
    def verdict(self) -> tuple[str, ...]:
        """A line for each pair of dense and 2:4, then what else should be known."""
        return (*map(str, self.proofs), *self.notes)


def hold(recipe: Recipe, engine: Backend, folder: Path, seconds: float, progress: Progress) -> Contest:
    """Build and compare the candidates of a recipe in `folder`, each timed for `seconds`.

    Raises ModelError, ConfigError, and BuildError when no candidate is left: MemoryBudgetExceeded, AccuracyGateFailed,
    SparsityNotAchieved where that is why.
    """
    folder = folder.absolute()  # children run in a folder of their own
    gate = Gate(recipe)
    begun, limited = time.monotonic(), recipe.build.time_limit or inf
    progress("reading the model", 0, 0)
    prepared = prepare(recipe, folder)
    plans = plan(recipe, engine, prepared)
    limit = budget(engine, recipe.build.memory)
    workers = Workers(engine, folder, limit.where, begun + CANDIDATES * limited, progress)
    gate.prepare(prepared, folder, progress)
    sources = Sources(recipe, engine, prepared, folder, workers, gate.asks_of_int8())
    attempts = Attempts(recipe, engine, prepared, sources, workers, limit)
    asks = {"spec": prepared.spec.model_dump_json(), "seconds": seconds, **gate.asks()}
    tried: list[Tried] = []
    for one in plans.wanted:
        best = min((t for t in tried if t.outcome == "lost"), key=choose.milliseconds, default=None)
        tried.append(attempts.attempt(one, best, asks))
        if tried[-1].runs and (reason := gate.refuses(tried[-1])):
            tried[-1].ends("refused", reason)
    passed = [one for one in tried if one.outcome == "lost"]
    if not passed:
        raise _none_left(tried, limit)
    workers.deadline = begun + limited
    clocks, notes = _race(workers, recipe, tried, seconds)
    chosen = choose.settle(passed, gate.words)
    proofs = choose.proofs(tried, prepared.layers)
    if recipe.accept.require_sparse:
        choose.require_sparse(chosen, proofs)
    fallback = min((one for one in tried if one.runs and one.outcome != "refused"), key=lambda one: one.plan.caution)
    impossible = [Tried(one).ends("skipped", reason) for one, reason in plans.impossible]
    notes = (*plans.notes, *sources.notes(), *notes)
    return Contest(prepared, limit, (*tried, *impossible), chosen, fallback, proofs, notes, clocks)


def _race(workers: Workers, recipe: Recipe, tried: Sequence[Tried], seconds: float) -> tuple[str, tuple[str, ...]]:
    """Time all that run by turns, so that what disturbs one disturbs all; returns the clocks and what went wrong."""
    running = {one.plan.name: one for one in tried if one.runs}
    if len(running) < 2:
        return str(device.clocks()), ()
    paths = {name: str(one.result.path) for name, one in running.items() if one.result}
    ended = workers.run("race", paths=paths, threads=recipe.build.threads, dla=recipe.build.dla, seconds=seconds)
    if ended.result is None:
        return str(device.clocks()), (f"timed one after the other, not by turns: {ended.error}",)
    for name, timing in ended.result["timings"].items():
        running[name].timing = Timing(**timing)
    return str(ended.result["clocks"]), ()


def _none_left(tried: Sequence[Tried], limit: Budget) -> BuildError:
    """Why no candidate may be used."""
    refused = [one for one in tried if one.outcome == "refused"]
    if refused:
        return all_refused(refused)
    short = [one for one in tried if one.short and one.spent != Spent()]
    if short:
        least = min(short, key=lambda one: one.spent.under(limit.where))
        needed = f"{least.plan.name} took {least.spent.under(limit.where) / MB:,.0f} MB"
        if least.spent.loaded is not None:
            whose = "the process and its libraries" if limit.where == "host" else "CUDA and the library"
            needed += f", {least.spent.loaded / MB:,.0f} MB of it {whose} before anything is built"
        mend = {
            "gpu": "end other programs on the GPU, or raise build.memory",
            "shared": "stop the desktop (sudo systemctl isolate multi-user.target) and other programs, add swap, "
            "or raise build.memory",
            "host": "end other programs, or raise build.memory",
        }[limit.where]
        return MemoryBudgetExceeded(f"no candidate fits into {limit}: {needed}: {mend}")
    found = "; ".join(f"{one.plan.name}: {one.reason}" for one in tried)
    return BuildError(f"no candidate could be built: {found}: 'edgesparse inspect MODEL.onnx' may say more")
