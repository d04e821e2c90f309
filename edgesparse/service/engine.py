"""The running engine: the package's chosen one or its fallback, with its identity and the reason for the choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesparse.builder.targets import open_detector, open_fallback, ready
from edgesparse.config import Run
from edgesparse.errors import ConfigError
from edgesparse.package.manifest import Manifest
from edgesparse.package.store import Package
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.registry import head
from edgesparse.runtime.run_settings import check_task, is_tiled
from edgesparse.runtime.thresholds import lowest_thresholds
from edgesparse.service.outputs.base import Scene
from edgesparse.service.settings import Settings, check_cameras


@dataclass(frozen=True)
class Identity:
    """The engine as metrics, status.json and the web page describe it."""

    package: str
    model: str
    backend: str
    version: str
    precision: str
    candidate: str
    fallback: bool
    notice: str
    created: str
    sha256: str
    sparse_layers: int
    layers: int
    classes: tuple[str, ...]
    why: tuple[str, ...]
    """Lines that explain why it was chosen."""
    machine: str


@dataclass(frozen=True)
class LoadedEngine:
    """A warmed-up detector and the settings it runs with. The owner closes the detector."""

    package: Package
    detector: Detector
    run: Run
    identity: Identity

    @property
    def scene(self) -> Scene:
        """What outputs report on."""
        run = self.run
        return Scene(self.identity.classes, run.all_cameras(), run.classes, tracked=bool(run.tracking))


def find(target: Path, store: Path, settings: Settings, progress: Progress = quiet) -> tuple[Package, Run]:
    """Return a target's package, built if necessary, and the settings to run it with.

    Raises what `ready` raises, and ConfigError if no camera is configured.
    """
    package = ready(target, store, progress=progress)
    return package, run_of(package, settings)


def run_of(package: Package, settings: Settings) -> Run:
    """Return the settings to run a package with. Raises ConfigError if they do not fit."""
    run = settings.run(package.manifest.run)
    if not run.all_cameras() and not settings.only_requests:
        raise ConfigError(
            f"{settings.where}: no camera: needed run.source or run.cameras in the settings or in the recipe"
        )
    check_cameras(settings.service, run, settings.where)
    return run


def load(package: Package, run: Run, fallback_because: str | None = None) -> LoadedEngine:
    """Load the package's engine and warm it up with one inference.

    The fallback is loaded if `fallback_because` gives a reason, or if the chosen engine cannot be loaded. Raises
    what `open_detector` raises.
    """
    if fallback_because is None:
        detector = open_detector(package, run)
    else:
        detector = open_fallback(package, run, fallback_because)
    return _warmed_up(package, detector, run, bool(detector.notice))


def load_beside(package: Package, run: Run) -> LoadedEngine:
    """Load the package's fallback to compare it with the chosen engine. Raises what `open_fallback` raises."""
    return _warmed_up(package, open_fallback(package, run), run, fallback=True)


def _warmed_up(package: Package, detector: Detector, run: Run, fallback: bool) -> LoadedEngine:
    try:
        height, width = detector.spec.input.size
        detector.detect([np.full((height, width, 3), 114, np.uint8)] * detector.batch)
    except BaseException:
        detector.close()
        raise
    return LoadedEngine(package, detector, run, identify(package.manifest, detector, fallback))


def serves(detector: Detector, run: Run) -> bool:
    """Whether the detector returns what `run` counts, so that `run` can replace its own: only the cameras differ, and
    not the lowest thresholds of all cameras, nor whether any has tiles. Raises ConfigError for what a new detector
    would refuse.
    """
    check_task(head(detector.spec.head).task, detector.spec, run)
    old, names = detector.run, detector.spec.classes
    ignored = {"source": None, "cameras": ()}
    same = run.model_copy(update=ignored) == old.model_copy(update=ignored) and is_tiled(run) == is_tiled(old)
    return same and np.array_equal(lowest_thresholds(run, names), lowest_thresholds(old, names))


def has_fallback(engine: LoadedEngine) -> bool:
    """Whether the package has another engine that can take over."""
    manifest = engine.package.manifest
    return not engine.identity.fallback and manifest.fallback != manifest.engine


def identify(manifest: Manifest, detector: Detector, fallback: bool) -> Identity:
    """Return the identity of the engine that a detector runs: the package's chosen one or its fallback."""
    file = manifest.fallback if fallback else manifest.engine
    chosen = next((candidate for candidate in manifest.candidates if candidate.chosen), None)
    layers = manifest.sparsity if chosen is not None and chosen.sparse and not fallback else ()
    why = [f"{chosen.name}: {chosen.reason}"] if chosen is not None and not fallback else []
    machine = manifest.machine
    return Identity(
        package=manifest.build_id,
        model=manifest.model,
        backend=manifest.backend,
        version=", ".join(f"{key} {value}" for key, value in manifest.identity.items()),
        precision=detector.precision,
        candidate=chosen.name if chosen is not None and not fallback else detector.precision,
        fallback=fallback,
        notice=detector.notice,
        created=manifest.created,
        sha256=manifest.files.get(file, ""),
        sparse_layers=sum(layer.sparse for layer in layers),
        layers=len(manifest.sparsity),
        classes=detector.spec.classes,
        why=(*why, *manifest.verdict),
        machine=" ".join(machine.get(key, "") for key in ("model", "gpu")).strip() or machine.get("cpu", ""),
    )
