"""How much a board carries: engines of several batches, in several streams at once, and the cameras that come of it."""

from __future__ import annotations

import heapq
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesparse import device
from edgesparse.backends import Backend, Runner, backend
from edgesparse.builder.build import pick_backend
from edgesparse.builder.compare import compare_candidates
from edgesparse.builder.targets import DEMO, ready, recipe_of
from edgesparse.config import SPARSE, Accept, Batch, Recipe, parse
from edgesparse.errors import ConfigError
from edgesparse.package.store import Package
from edgesparse.progress import Progress

Seconds = NDArray[np.float64]
FRAMES = 6_000
"""About so many are followed to see whether cameras are carried."""


@dataclass(frozen=True)
class Demand:
    """What cameras ask for: frames a second of each, and the most milliseconds from a frame's arrival to its result."""

    fps: float = 30.0
    max_age_ms: float = 100.0


@dataclass(frozen=True)
class Engine:
    """A built file, and what it was built as."""

    candidate: str
    batch: int
    path: Path
    dla: int | None = None


@dataclass(frozen=True)
class Load:
    """One engine with all its streams busy. `p50` ... `p99`: milliseconds of one run, copies included.

    `cameras`: how many are carried without a frame lost, 99 % of the frames within the age asked for.
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
    target: Path,
    batches: Sequence[int],
    streams: Sequence[int],
    candidates: Sequence[str] | None,
    demand: Demand,
    seconds: float,
    store: Path,
    progress: Progress,
) -> tuple[str, list[Load]]:
    """Name and loads of whatever a user names: a package as it is; a recipe or model built for each batch.

    `candidates` are those of a recipe; None: its own. Raises ConfigError, and as `build` does.
    """
    if target.is_dir() and target != DEMO:
        package = ready(target, store)
        if candidates:
            raise ConfigError(
                f"{target} is a package, whose engines are built: leave out --candidates, or name a recipe"
            )
        return package.manifest.model, of_package(package, batches, streams, demand, seconds, progress)
    recipe = recipe_of(target)
    if candidates:
        build = {**recipe.build.model_dump(), "candidates": list(candidates)}
        said = parse({"model": str(recipe.model), "build": build}, "--candidates")
        recipe = recipe.model_copy(update={"build": said.build})
    return recipe.model.stem, of_recipe(recipe, batches or [recipe.build.batch.opt], streams, demand, seconds, progress)


def of_recipe(
    recipe: Recipe,
    batches: Sequence[int],
    streams: Sequence[int],
    demand: Demand,
    seconds: float,
    progress: Progress,
) -> list[Load]:
    """Build every candidate of a recipe at every batch, for this alone, and load each. Raises as `build` does."""
    loads: list[Load] = []
    engine = pick_backend(recipe)
    for batch in batches:
        changed = recipe.build.model_copy(update={"batch": Batch(min=batch, opt=batch, max=batch)})
        asked = recipe.model_copy(update={"build": changed, "accept": Accept()})
        with tempfile.TemporaryDirectory(prefix="edgesparse-") as folder:
            comparison = compare_candidates(asked, engine, Path(folder), min(seconds, 0.2), progress)
            built = [
                Engine(one.plan.name, batch, one.result.path, recipe.build.dla)
                for one in comparison.attempts
                if one.runs and one.result
            ]
            loads += _all(engine, built, streams, recipe.build.threads, demand, seconds, progress)
    return loads


def of_package(
    package: Package,
    batches: Sequence[int],
    streams: Sequence[int],
    demand: Demand,
    seconds: float,
    progress: Progress,
) -> list[Load]:
    """Load the engine and the fallback of a package, in the batch that they have. Raises ConfigError for others."""
    manifest = package.manifest
    batch = next(tensor.shape[0] for tensor in manifest.inputs if len(tensor.shape) == 4)
    if any(asked != batch for asked in batches):
        raise ConfigError(f"the package has batch {batch}, asked for {', '.join(map(str, batches))}: give its recipe")
    chosen = next((one.name for one in manifest.candidates if one.chosen), manifest.precision)
    built = [Engine(chosen, batch, package.engine, manifest.dla)]
    if manifest.fallback != manifest.engine:
        built.append(Engine(f"fallback {manifest.fallback_precision}", batch, package.fallback, manifest.dla))
    return _all(backend(manifest.backend), built, streams, manifest.threads, demand, seconds, progress)


def _all(
    engine: Backend,
    built: Sequence[Engine],
    streams: Sequence[int],
    threads: int,
    demand: Demand,
    seconds: float,
    progress: Progress,
) -> list[Load]:
    loads = []
    for one in built:
        for count in streams:
            progress(f"{one.candidate}, batch {one.batch}, {count} at once", 0, 0)
            share = threads or max(1, device.probe().cores // count)
            with ExitStack() as stack:
                runners = [stack.enter_context(engine.load(one.path, share, one.dla)) for _ in range(count)]
                times, rate = busy(runners, seconds)
            fps = one.batch * rate
            p50, p90, p99 = (float(1e3 * t) for t in np.percentile(times, (50, 90, 99)))
            carried = cameras(times, one.batch, count, demand, int(fps / demand.fps))
            loads.append(Load(one.candidate, one.batch, count, fps, p50, p90, p99, carried))
    return loads


def busy(runners: Sequence[Runner], seconds: float) -> tuple[Seconds, float]:
    """Run all without a pause, each in a thread of its own, for `seconds`, or 5 runs where that is longer.

    Returns the seconds of each run, and the runs a second of all together. Raises what a runner raises.
    """
    times: list[list[float]] = [[] for _ in runners]
    errors: list[BaseException] = []
    start = threading.Barrier(len(runners))

    def work(runner: Runner, mine: list[float]) -> None:
        try:
            for _ in range(2):
                runner.infer()
            start.wait()
            end = time.perf_counter() + seconds
            while len(mine) < 5 or time.perf_counter() < end:
                begun = time.perf_counter()
                runner.infer()
                mine.append(time.perf_counter() - begun)
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
    return np.concatenate(times), sum(len(mine) / sum(mine) for mine in times)


def cameras(times: Seconds, batch: int, streams: int, demand: Demand, most: int) -> int:
    """The most cameras, up to `most`, that are carried when a run takes one of these `times` (seconds).

    Cameras send their frames evenly spread over a frame's time. A stream that is free takes up to `batch` frames that
    wait, the oldest first, and runs at once. A camera's newer frame replaces one that still waits: then it is lost.
    """
    if most < 1 or carries(times, batch, streams, demand, most):
        return max(most, 0)
    low, high = 0, most - 1
    while low < high:
        middle = (low + high + 1) // 2
        if carries(times, batch, streams, demand, middle):
            low = middle
        else:
            high = middle - 1
    return low


def carries(times: Seconds, batch: int, streams: int, demand: Demand, count: int) -> bool:
    """Whether none of the frames of `count` cameras is lost and 99 % of their results are there in time.

    Followed for 60 frames of each camera, fewer where there are many: `count` must be no more than the rate allows.
    """
    draw = np.random.default_rng(0).permutation(np.resize(times, max(len(times), 2000)))
    free = [0.0] * streams
    period, waiting, ages = 1 / demand.fps, deque[float](), list[float]()
    arrivals = (number * period / count for number in range(count * max(3, min(60, FRAMES // count))))
    arrived = next(arrivals, None)
    while arrived is not None or waiting:
        at = heapq.heappop(free)
        if not waiting and arrived is not None:
            at = max(at, arrived)
        while arrived is not None and arrived <= at:
            waiting.append(arrived)
            arrived = next(arrivals, None)
        if waiting[0] + period < at:
            return False  # its camera has sent another one since
        end = at + float(draw[len(ages) % len(draw)])
        ages += [end - waiting.popleft() for _ in range(min(batch, len(waiting)))]
        heapq.heappush(free, end)
    return float(np.percentile(ages, 99)) <= demand.max_age_ms / 1e3


def best(loads: Sequence[Load], wanted: Callable[[Load], bool]) -> Load | None:
    """The one that carries the most cameras, and the most frames among those."""
    return max(filter(wanted, loads), key=lambda load: (load.cameras, load.fps), default=None)


def summary(loads: Sequence[Load], demand: Demand) -> str:
    """How many cameras dense and 2:4 engines carry, in a sentence or two."""
    said = []
    found = {"dense": best(loads, lambda load: not load.sparse), "2:4": best(loads, lambda load: load.sparse)}
    for kind, load in found.items():
        if load is not None:
            how = f"{load.candidate}, batch {load.batch}, {load.streams} at once"
            said.append(f"{load.cameras} cameras {kind} ({how}: {load.fps:.0f} frames a second)")
    dense, sparse = found.values()
    gain = f", {sparse.fps / dense.fps:.2f} times the frames" if dense and sparse else ""
    return f"At {demand.fps:g} frames a second and an age of at most {demand.max_age_ms:g} ms: {', '.join(said)}{gain}"
