"""Builds the package of a recipe: prepare, build, time, score, choose, write."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgesparse import backends
from edgesparse.backends import Backend
from edgesparse.builder.attempts import TIME_IS_UP
from edgesparse.builder.compare import compare_candidates
from edgesparse.builder.int8 import hash_images, hash_labels
from edgesparse.builder.pack import pack
from edgesparse.builder.prepare import with_batch
from edgesparse.config import Recipe, Run
from edgesparse.disk import storing
from edgesparse.errors import BackendUnavailable, ConfigError
from edgesparse.model import load as models
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import sha256
from edgesparse.package.store import STORE, Package, Store, sealed
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.heads.own import head_identity
from edgesparse.version import VERSION

TIMING_SECONDS = 1.0
Reuse = Literal["package", "candidates", "nothing"]
PREFERENCE = ("tensorrt", "onnxruntime")
"""The backends that `build.backend: auto` tries, best first."""


@dataclass(frozen=True)
class Built:
    """A package, and whether an earlier build of the same inputs was reused."""

    package: Package
    reused: bool


@dataclass(frozen=True)
class Inputs:
    """Everything that determines what is built: the recipe, the backend, and the sha256 of the files they read."""

    recipe: Recipe
    backend: Backend
    hashes: Mapping[str, str | None]

    @property
    def build_id(self) -> str:
        """The name of the build's folder, 12 hexadecimal digits."""
        inputs = [self.recipe.build_key(), self.hashes, self.backend.name, self.backend.identity(), VERSION]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def build(
    recipe: Recipe,
    root: Path = STORE,
    *,
    reuse: Reuse = "package",
    progress: Progress = quiet,
    make_current: bool = True,
    keep: Path | None = None,
) -> Built:
    """Build the package of a recipe in the store `root`, or reuse one that was built from the same inputs.

    It becomes the model's `current` package, with the recipe's `run` in its manifest; without `make_current`, only if
    the model has no current package, and a reused package is left unchanged on disk. `keep` is a folder for the
    files that candidates are built from, which their trtexec commands name; a build that is reused or refused writes
    nothing there. `reuse`: a whole "package"; or the "candidates" that an interrupted build finished, for a package
    that does not exist or that the time limit left incomplete; or "nothing".

    Raises ModelError, BuildError (AccuracyGateFailed if it detects worse than `accept` allows), PackageError,
    BackendUnavailable. Whatever fails, existing packages are left unchanged.
    """
    recipe = with_batch(recipe)
    inputs = Inputs(recipe, pick_backend(recipe), _hashes(recipe))
    store = Store(root, recipe.model.stem)
    existing = None if reuse == "nothing" else store.find(inputs.build_id)
    if reuse == "candidates" and existing is not None and _cut_short(existing):
        existing = None
    if existing is not None and not make_current:
        return Built(_with_run(existing, recipe.run), True)
    with store.lock(), storing(store.folder):
        package = existing or _write(store, inputs, progress, keep, reuse == "candidates")
        if package.manifest.run != recipe.run:
            package = _with_run(package, recipe.run)
            manifests.write(package.folder, sealed(package.manifest))
        if make_current or store.current() is None:
            store.switch(inputs.build_id)
    return Built(package, existing is not None)


def pick_backend(recipe: Recipe) -> Backend:
    """Return the recipe's backend; with `auto`, the best that works here. Raises BackendUnavailable with the remedy."""
    names = PREFERENCE if recipe.build.backend == "auto" else (recipe.build.backend,)
    for name in names:
        backend = backends.backend(name)
        availability = backend.probe()
        if availability.ok:
            return backend
    raise BackendUnavailable(f"backend {name} does not work here ({availability.reason}): {availability.remedy}")


def _with_run(package: Package, run: Run) -> Package:
    """Set `run`, which does not affect the build: a package built with a different `run` is reused with this one."""
    return Package(package.folder, package.manifest.model_copy(update={"run": run}))


def _cut_short(package: Package) -> bool:
    """Whether the time limit kept a candidate from being built."""
    return any(candidate.reason == TIME_IS_UP for candidate in package.manifest.candidates)


def _write(store: Store, inputs: Inputs, progress: Progress, keep: Path | None, resume: bool) -> Package:
    size = sum(file.stat().st_size for file in models.files(inputs.recipe.model) if file.is_file())
    with store.writing(inputs.build_id, 3 * size + 1_000_000) as folder:
        work = folder / "work"
        work.mkdir()
        comparison = compare_candidates(inputs.recipe, inputs.backend, work, TIMING_SECONDS, progress, resume=resume)
        pack(folder, comparison, inputs.build_id, inputs.hashes)
        if keep is not None:
            _keep(work, keep)
        shutil.rmtree(work)
    if comparison.kept is not None:
        comparison.kept.forget()
    return Package(store.folder / inputs.build_id, manifests.read(store.folder / inputs.build_id))


def _keep(work: Path, folder: Path) -> None:
    """Copy the files that candidates were built from, not the results. Raises ConfigError if that fails."""
    results = ("*.engine", "*.part", "job-*", ".*")
    try:
        shutil.copytree(work, folder, ignore=shutil.ignore_patterns(*results), dirs_exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error}") from None


def _hashes(recipe: Recipe) -> dict[str, str | None]:
    labels, reference, images = recipe.accept.annotations, recipe.accept.reference, recipe.calibrate.images
    unlabeled = None if labels else recipe.accept.images
    external = models.files(recipe.model)[1:]
    own = head_identity(recipe.head)
    return {
        **({"head": own} if own is not None else {}),
        "model": sha256(recipe.model),
        "weights": " ".join(sha256(file) for file in external if file.is_file()) or None,
        "labels": hash_labels(labels) if labels else None,
        "reference": sha256(reference) if reference else None,
        "calibration": hash_images(images) if images else None,
        "images": hash_images(unlabeled) if unlabeled else None,
    }
