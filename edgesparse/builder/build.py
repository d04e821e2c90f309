"""From a recipe to a package: prepare, build, time, score, decide, write."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesparse.backends import NAMES, Backend, backend
from edgesparse.builder.contest import hold
from edgesparse.builder.int8 import hash_of
from edgesparse.builder.pack import pack
from edgesparse.config import Recipe, Run
from edgesparse.errors import BackendUnavailable, ConfigError
from edgesparse.model import load as models
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import sha256
from edgesparse.package.store import Package, Store, sealed
from edgesparse.progress import Progress, quiet
from edgesparse.version import VERSION

STORE = Path("engines")
TIMING_SECONDS = 1.0
BEST_FIRST = ("tensorrt", "onnxruntime")
"""What `build.backend: auto` is, the first that works."""


@dataclass(frozen=True)
class Built:
    package: Package
    reused: bool


def build(
    recipe: Recipe,
    root: Path = STORE,
    *,
    force: bool = False,
    progress: Progress = quiet,
    make_current: bool = True,
    keep: Path | None = None,
) -> Built:
    """The package of a recipe in the store `root`: found if one with the same inputs is there, else built.

    It becomes the model's `current` one, with the recipe's `run` in its manifest; without `make_current`, only if
    there is none, and a package that is there already stays as it is on the disk. `keep`: a folder for the files that
    candidates are built from, which their trtexec lines name; a build that is found, or refused, leaves none there.

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
        package = found or _make(store, recipe, engine, build_id, hashes, progress, keep)
        if package.manifest.run != recipe.run:
            package = _with_run(package, recipe.run)
            manifests.write(package.folder, sealed(package.manifest))
        if make_current or store.current() is None:
            store.switch(build_id)
    return Built(package, found is not None)


def _with_run(package: Package, run: Run) -> Package:
    """`run` has no part in what is built, so packages are found whatever it says."""
    return Package(package.folder, package.manifest.model_copy(update={"run": run}))


def pick(recipe: Recipe) -> Backend:
    """The recipe's backend; `auto` is the best that works here. Raises BackendUnavailable with the remedy."""
    auto = [name for name in BEST_FIRST if name in NAMES]
    for name in auto if recipe.build.backend == "auto" else [recipe.build.backend]:
        engine = backend(name)
        there = engine.probe()
        if there.ok:
            return engine
    raise BackendUnavailable(f"backend {name} does not work here ({there.reason}): {there.remedy}")


def _make(
    store: Store,
    recipe: Recipe,
    engine: Backend,
    build_id: str,
    hashes: Mapping[str, str | None],
    progress: Progress,
    keep: Path | None,
) -> Package:
    size = sum(file.stat().st_size for file in models.files(recipe.model) if file.is_file())
    with store.writing(build_id, 3 * size + 1_000_000) as folder:
        (folder / "work").mkdir()
        contest = hold(recipe, engine, folder / "work", TIMING_SECONDS, progress)
        pack(folder, contest, recipe, engine, build_id, hashes)
        if keep is not None:
            _keep(folder / "work", keep)
        shutil.rmtree(folder / "work")
    return Package(store.folder / build_id, manifests.read(store.folder / build_id))


def _keep(work: Path, folder: Path) -> None:
    """What was built from, without what came of it. Raises ConfigError where it cannot be written."""
    made = ("*.engine", "*.part", "job-*", ".*")
    try:
        shutil.copytree(work, folder, ignore=shutil.ignore_patterns(*made), dirs_exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error}") from None


def _hashes(recipe: Recipe) -> dict[str, str | None]:
    labels, reference, images = recipe.accept.annotations, recipe.accept.reference, recipe.calibrate.images
    unlabelled = None if labels else recipe.accept.images
    beside = models.files(recipe.model)[1:]
    return {
        "model": sha256(recipe.model),
        "weights": " ".join(sha256(file) for file in beside if file.is_file()) or None,
        "labels": sha256(labels) if labels else None,
        "reference": sha256(reference) if reference else None,
        "calibration": hash_of(images) if images else None,
        "images": hash_of(unlabelled) if unlabelled else None,
    }


def _build_id(recipe: Recipe, engine: Backend, hashes: Mapping[str, str | None]) -> str:
    inputs = [recipe.build_key(), hashes, engine.name, engine.identity(), VERSION]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
