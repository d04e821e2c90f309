"""Throughput under load: engines of several batch sizes, run in several streams in parallel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgesparse import device
from edgesparse.backends import Backend, Runner, backend
from edgesparse.bench.cameras import Demand, Seconds, most_cameras
from edgesparse.builder.build import pick_backend
from edgesparse.builder.compare import compare_candidates
from edgesparse.builder.targets import DEMO, ready, recipe_of
from edgesparse.config import SPARSE, Accept, Batch, Recipe, parse
from edgesparse.disk import scratch
from edgesparse.errors import ConfigError
from edgesparse.package.store import Package
from edgesparse.progress import Progress


@dataclass(frozen=True)
class Workload:
    """Batch sizes and stream counts to measure, for `seconds` each, and the demand of cameras. Without `batches` the
    engine's own batch size is measured.
    """

    batches: Sequence[int] = ()
    streams: Sequence[int] = (1,)
    demand: Demand = field(default_factory=Demand)
    seconds: float = 2.0


@dataclass(frozen=True)
class BenchEngine:
    """An engine file, with its candidate and batch size."""

    candidate: str
    batch: int
    path: Path
    dla: int | None = None


@dataclass(frozen=True)
class Load:
    """One engine with all of its streams busy. `p50`, `p90`, `p99`: milliseconds per run, copies included.

    `cameras`: how many can be served without losing a frame, with 99 % of the results within the required age.
    """

    candidate: str
    batch: int
    streams: int
    fps: float
    p50: float
    p90: float
    p99: float
    cameras: int

    @property
    def sparse(self) -> bool:
        return self.candidate.endswith(SPARSE)


def of_target(
    target: Path, workload: Workload, candidates: Sequence[str] | None, store: Path, progress: Progress
) -> tuple[str, list[Load]]:
    """Return the name and loads of a package, measured unchanged, or of a recipe or model, built for each batch size.

    `candidates` replaces those of a recipe. Raises ConfigError, and what `build` raises.
    """
    if target.is_dir() and target != DEMO:
        package = ready(target, store)
        if candidates:
            raise ConfigError(f"{target} is a package with built engines: leave out --candidates, or name its recipe")
        return package.manifest.model, of_package(package, workload, progress)
    recipe = recipe_of(target)
    if candidates:
        settings = {**recipe.build.model_dump(), "candidates": list(candidates)}
        changed = parse({"model": str(recipe.model), "build": settings}, "--candidates")
        recipe = recipe.model_copy(update={"build": changed.build})
    return recipe.model.stem, of_recipe(recipe, workload, progress)


def of_recipe(recipe: Recipe, workload: Workload, progress: Progress) -> list[Load]:
    """Build every candidate of a recipe for every batch size, in a temporary folder, and measure each under load.
    Raises what `build` raises.
    """
    loads: list[Load] = []
    target = pick_backend(recipe)
    for batch in workload.batches or [recipe.build.batch.opt]:
        settings = recipe.build.model_copy(update={"batch": Batch(min=batch, opt=batch, max=batch)})
        changed = recipe.model_copy(update={"build": settings, "accept": Accept()})
        with scratch() as folder:
            comparison = compare_candidates(changed, target, folder, min(workload.seconds, 0.2), progress)
            engines = [
                BenchEngine(attempt.plan.name, batch, attempt.result.path, recipe.build.dla)
                for attempt in comparison.attempts
                if attempt.runs and attempt.result
            ]
            loads += _measure(target, engines, workload, recipe.build.threads, progress)
    return loads


def of_package(package: Package, workload: Workload, progress: Progress) -> list[Load]:
    """Measure a package's engine and its fallback at their own batch size. Raises ConfigError for other sizes."""
    manifest = package.manifest
    batch = next(tensor.shape[0] for tensor in manifest.inputs if len(tensor.shape) == 4)
    if any(requested != batch for requested in workload.batches):
        requested = ", ".join(map(str, workload.batches))
        raise ConfigError(
            f"--batch: found {requested}, needed {batch}, the package's batch: leave it out, or name the recipe"
        )
    chosen = next((candidate.name for candidate in manifest.candidates if candidate.chosen), manifest.precision)
    engines = [BenchEngine(chosen, batch, package.engine, manifest.dla)]
    if manifest.fallback != manifest.engine:
        name = f"fallback {manifest.fallback_precision}"
        engines.append(BenchEngine(name, batch, package.fallback, manifest.dla))
    return _measure(backend(manifest.backend), engines, workload, manifest.threads, progress)


def _measure(
    target: Backend, engines: Sequence[BenchEngine], workload: Workload, threads: int, progress: Progress
) -> list[Load]:
    loads = []
    for engine in engines:
        for count in workload.streams:
            progress(f"{engine.candidate}, batch {engine.batch}, {count} streams", 0, 0)
            share = threads or max(1, device.probe().cores // count)
            with ExitStack() as stack:
                runners = [stack.enter_context(target.load(engine.path, share, engine.dla)) for _ in range(count)]
                times, rate = run_busy(runners, workload.seconds)
            fps = engine.batch * rate
            p50, p90, p99 = (float(1e3 * t) for t in np.percentile(times, (50, 90, 99)))
            demand = workload.demand
            cameras = most_cameras(times, engine.batch, count, demand, int(fps / demand.fps))
            loads.append(Load(engine.candidate, engine.batch, count, fps, p50, p90, p99, cameras))
    return loads


def run_busy(runners: Sequence[Runner], seconds: float) -> tuple[Seconds, float]:
    """Run all continuously, each in its own thread, for `seconds` or 5 runs, whichever is longer. Returns the seconds
    of each run, and the total runs per second. Raises what a runner raises.
    """
    times: list[list[float]] = [[] for _ in runners]
    errors: list[BaseException] = []
    start = threading.Barrier(len(runners))

    def work(runner: Runner, own: list[float]) -> None:
        try:
            for _ in range(2):
                runner.infer()
            start.wait()
            end = time.perf_counter() + seconds
            while len(own) < 5 or time.perf_counter() < end:
                begun = time.perf_counter()
                runner.infer()
                own.append(time.perf_counter() - begun)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in zip(runners, times, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return np.concatenate(times), sum(len(own) / sum(own) for own in times)


def best(loads: Sequence[Load], matches: Callable[[Load], bool]) -> Load | None:
    """Return the load that serves the most cameras, and among those has the most frames per second."""
    return max(filter(matches, loads), key=lambda load: (load.cameras, load.fps), default=None)


def summary(loads: Sequence[Load], demand: Demand) -> str:
    """Return a sentence on how many cameras dense and 2:4 engines can serve."""
    dense, sparse = best(loads, lambda load: not load.sparse), best(loads, lambda load: load.sparse)
    parts = []
    for kind, load in (("dense", dense), ("2:4", sparse)):
        if load is not None:
            engine = f"{load.candidate}, batch {load.batch}, {load.streams} streams"
            parts.append(f"{load.cameras} cameras {kind} ({engine}: {load.fps:.0f} frames per second)")
    gain = f", {sparse.fps / dense.fps:.2f} times the frames" if dense and sparse else ""
    return (
        f"At {demand.fps:g} frames per second and an age of at most {demand.max_age_ms:g} ms: {', '.join(parts)}{gain}"
    )
