"""From a recipe to a package: prepare, build, time, score, decide, write."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from edgesparse import device
from edgesparse.backends import Backend, BuildOptions, BuildResult, Runner, TensorSpec, backend
from edgesparse.build import report
from edgesparse.classes import coco_names
from edgesparse.config import DetectorSpec, Recipe, Run
from edgesparse.errors import AccuracyGateFailed, BackendUnavailable, ConfigError, ModelError
from edgesparse.graph import model as graph
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import Candidate, Manifest, Score, Tensor, sha256
from edgesparse.package.store import Package, Store
from edgesparse.runtime.decode import check, choose, names_in
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Labels, evaluate
from edgesparse.runtime.heads import HEADS, Layout
from edgesparse.version import VERSION

Progress = Callable[[str, int, int], None]
"""(what is being done, how many are done, of how many; 0 when that is not known)."""

STORE = Path("engines")
TIMING_SECONDS = 1.0


def quiet(step: str, done: int, total: int) -> None:
    """No progress shown."""


@dataclass(frozen=True)
class Built:
    package: Package
    reused: bool


def build(
    recipe: Recipe, root: Path = STORE, *, force: bool = False, progress: Progress = quiet, make_current: bool = True
) -> Built:
    """The package of a recipe in the store `root`: found if one with the same inputs is there, else built.

    It becomes the model's `current` one, with the recipe's `run` in its manifest; without `make_current`, only if
    there is none, and a package that is there already stays as it is on the disk.

    Raises ModelError, BuildError (AccuracyGateFailed when it detects worse than `accept` allows), PackageError,
    BackendUnavailable. Whatever fails, packages that are there stay as they are.
    """
    engine = pick(recipe)
    hashes = _hashes(recipe)
    build_id = _build_id(recipe, engine, hashes)
    store = Store(root, recipe.model.stem)
    found = None if force else store.find(build_id)
    if found is not None and not make_current:
        return Built(_with_run(found, recipe.run), True)
    with store.lock():
        package = found or _make(store, recipe, engine, build_id, hashes, progress)
        if package.manifest.run != recipe.run:
            package = _with_run(package, recipe.run)
            manifests.write(package.folder, package.manifest)
        if make_current or store.current() is None:
            store.switch(build_id)
    return Built(package, found is not None)


def _with_run(package: Package, run: Run) -> Package:
    """`run` has no part in what is built, so packages are found whatever it says."""
    return Package(package.folder, package.manifest.model_copy(update={"run": run}))


def pick(recipe: Recipe) -> Backend:
    """The recipe's backend; `auto` is the best that works here. Raises BackendUnavailable with the remedy."""
    name = "onnxruntime" if recipe.build.backend == "auto" else recipe.build.backend
    engine = backend(name)
    there = engine.probe()
    if not there.ok:
        raise BackendUnavailable(f"backend {name} does not work here ({there.reason}): {there.remedy}")
    return engine


def find_head(recipe: Recipe, said: graph.ModelInfo, runner: Runner, layout: Layout) -> str:
    """The recipe's head if it fits, else the one that the outputs tell of. Raises ModelError."""
    if recipe.head == "auto":
        return choose(layout, said.metadata, _sample(runner))
    check(recipe.head, layout)
    return recipe.head


def specify(recipe: Recipe, said: graph.ModelInfo, head: str, layout: Layout) -> DetectorSpec:
    """Classes and pre-processing: what the recipe says, else what model and convention say."""
    convention = HEADS[head].convention.model_copy(update={"size": layout.size})
    classes = _classes(recipe, said, HEADS[head].classes(layout))
    return DetectorSpec(head=head, classes=classes, input=recipe.input.resolve(convention))


def _make(
    store: Store,
    recipe: Recipe,
    engine: Backend,
    build_id: str,
    hashes: Mapping[str, str | None],
    progress: Progress,
) -> Package:
    size = sum(file.stat().st_size for file in graph.files(recipe.model) if file.is_file())
    with store.writing(build_id, 3 * size + 1_000_000) as folder:
        _fill(folder, recipe, engine, build_id, hashes, progress)
    return Package(store.folder / build_id, manifests.read(store.folder / build_id))


def _fill(
    folder: Path, recipe: Recipe, engine: Backend, build_id: str, hashes: Mapping[str, str | None], progress: Progress
) -> None:
    labels = _labels(recipe)
    progress("reading the model", 0, 0)
    model = graph.load(recipe.model)
    said = graph.info(model)
    size = recipe.input.size or said.size
    fixed = graph.fix_shapes(model, recipe.build.batch, size)
    progress(f"building with {engine.name}", 0, 0)
    result = _compile(engine, fixed, folder, recipe)
    with engine.load(result.path, recipe.build.threads) as runner:
        shape = next(spec.shape for spec in runner.inputs if len(spec.shape) == 4)
        layout = Layout(runner.outputs, (shape[2], shape[3]))
        spec = specify(recipe, said, find_head(recipe, said, runner, layout), layout)
    if engine.takes_bytes:
        # Only now is it known how pixels are scaled.
        look = spec.input
        result = _compile(engine, graph.byte_input(fixed, look.scale, look.mean, look.std), folder, recipe)
    with engine.load(result.path, recipe.build.threads) as runner:
        latency = _latency(runner, progress)
        score, reason = _accept(recipe, spec, engine, result, labels, folder, progress)
        inputs, outputs = runner.inputs, runner.outputs
    candidate = _candidate(engine, result, latency, score, reason)
    manifest = Manifest(
        edgesparse=VERSION,
        build_id=build_id,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=recipe.model.stem,
        source_sha256=str(hashes["model"]),
        recipe_sha256=recipe.build_key(),
        labels_sha256=hashes["labels"],
        backend=engine.name,
        identity=engine.identity(),
        machine=device.probe().named(),
        engine=result.path.name,
        inputs=_tensors(inputs),
        outputs=_tensors(outputs),
        detector=spec,
        threads=recipe.build.threads,
        run=recipe.run,
        candidates=(candidate,),
        files={},
    )
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / "report.html").write_text(report.page(manifest.model_copy(update={"files": files})))
    files["report.html"] = sha256(folder / "report.html")
    manifests.write(folder, manifest.model_copy(update={"files": files}))


def _compile(engine: Backend, model: graph.Model, folder: Path, recipe: Recipe) -> BuildResult:
    prepared = folder / "prepared.onnx"
    graph.save(model, prepared)
    options = BuildOptions(recipe.build.threads, recipe.prepare.simplify)
    result = engine.build(prepared, folder / f"model{engine.suffix}", options)
    for leftover in folder.glob("prepared.onnx*"):
        leftover.unlink()
    return result


def _labels(recipe: Recipe) -> Labels | None:
    accept = recipe.accept
    if accept.annotations is not None:
        return Labels(accept.annotations, accept.images)
    if accept.min_map is not None or accept.max_map_drop is not None:
        raise ConfigError("accept: a score is asked for without labelled pictures: set accept.annotations")
    return None


def _accept(
    recipe: Recipe,
    spec: DetectorSpec,
    engine: Backend,
    result: BuildResult,
    labels: Labels | None,
    folder: Path,
    progress: Progress,
) -> tuple[Score | None, str]:
    """Score and verdict of a candidate. Raises AccuracyGateFailed."""
    accept = recipe.accept
    if labels is None:
        return None, "the only candidate; not scored: accept.annotations is not set"
    score = _score(engine, result.path, spec, labels, recipe, "scoring", progress)
    if accept.min_map is not None and score.map < accept.min_map:
        raise AccuracyGateFailed(
            f"refused: found {score.map:.1f} mAP, needed accept.min_map {accept.min_map:g} "
            f"on {len(labels.images)} pictures: check head, classes and input, or ask for less"
        )
    if accept.max_map_drop is None:
        return score, "the only candidate"
    reference = folder / "reference.onnx"
    source = graph.load(accept.reference or recipe.model)
    graph.save(graph.fix_shapes(source, recipe.build.batch, spec.input.size), reference)
    base = _score(backend("onnxruntime"), reference, spec, labels, recipe, "scoring the reference", progress)
    for leftover in folder.glob("reference.onnx*"):
        leftover.unlink()
    drop = base.map - score.map
    if drop > accept.max_map_drop:
        raise AccuracyGateFailed(
            f"refused: found {score.map:.1f} mAP, {drop:.1f} under the reference's {base.map:.1f}, "
            f"allowed accept.max_map_drop {accept.max_map_drop:g}: quantise or prune less, or allow more"
        )
    return score, f"the only candidate; {abs(drop):.1f} mAP {'under' if drop > 0 else 'over'} the reference"


def _score(
    engine: Backend, path: Path, spec: DetectorSpec, labels: Labels, recipe: Recipe, step: str, progress: Progress
) -> Score:
    with Detector(engine.load(path, recipe.build.threads), spec, SCORING) as detector:
        found = evaluate(detector, labels, lambda done, total: progress(step, done, total))
    return Score(map=round(found.map, 2), map50=round(found.map50, 2))


def _latency(runner: Runner, progress: Progress) -> float:
    """Median milliseconds of the engine alone: at least 10 runs, for TIMING_SECONDS."""
    progress("timing", 0, 0)
    runner.infer()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 10 or time.perf_counter() - begun < TIMING_SECONDS:
        start = time.perf_counter()
        runner.infer()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _candidate(engine: Backend, result: BuildResult, latency: float, score: Score | None, reason: str) -> Candidate:
    return Candidate(
        name=f"{engine.name} {result.precision}",
        precision=result.precision,
        build_seconds=round(result.seconds, 3),
        latency_ms=round(latency, 3),
        peak_memory_mb=round(device.peak_memory() / 1e6, 1),
        score=score,
        chosen=True,
        reason=reason,
    )


def _sample(runner: Runner) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Outputs for a picture of noise: enough to tell decoded boxes from offsets on a grid."""
    buffers = runner.allocate()
    noise = np.random.default_rng(0)
    for spec in runner.inputs:
        buffers[spec.name][...] = noise.random(spec.shape).astype(spec.dtype)
    runner.bind(buffers)
    runner.infer()
    return [buffers[spec.name].copy() for spec in runner.outputs]


def _classes(recipe: Recipe, said: graph.ModelInfo, count: int | None) -> tuple[str, ...]:
    if isinstance(recipe.classes, tuple):
        names = recipe.classes
    elif recipe.classes == "coco":
        names = coco_names()
    else:
        found = names_in(said.metadata)
        if found is None and count is None:
            raise ModelError("neither the file nor its outputs tell the classes: set 'classes:' in the recipe")
        names = found or tuple(map(str, range(count or 0)))
    if count is not None and len(names) != count:
        raise ConfigError(f"classes: found {len(names)} names, the network has {count} classes: make them equal")
    return names


def _hashes(recipe: Recipe) -> dict[str, str | None]:
    labels, reference = recipe.accept.annotations, recipe.accept.reference
    beside = graph.files(recipe.model)[1:]
    return {
        "model": sha256(recipe.model),
        "weights": " ".join(sha256(file) for file in beside if file.is_file()) or None,
        "labels": sha256(labels) if labels else None,
        "reference": sha256(reference) if reference else None,
    }


def _build_id(recipe: Recipe, engine: Backend, hashes: Mapping[str, str | None]) -> str:
    inputs = [recipe.build_key(), hashes, engine.name, engine.identity(), VERSION]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _tensors(specs: tuple[TensorSpec, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=spec.name, shape=spec.shape, dtype=spec.dtype) for spec in specs)
