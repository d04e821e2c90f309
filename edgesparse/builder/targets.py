"""Turns a user's target (a package, a recipe, an ONNX file, or `demo`) into a detector that is ready to run."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from edgesparse.backends import backend
from edgesparse.backends.base import Runner
from edgesparse.classes import named_classes
from edgesparse.config import Recipe, Run, load_recipe, parse
from edgesparse.errors import BuildError, ConfigError
from edgesparse.model.foreign import refuse_foreign
from edgesparse.package.store import STORE, Package, open_package
from edgesparse.progress import Progress, quiet

if TYPE_CHECKING:
    from edgesparse.runtime.detector import Detector

_log = logging.getLogger(__name__)

DEMO = Path("demo")
"""The target that names the default detector."""


def recipe_of(target: Path, names: str | None = None) -> Recipe:
    """Return the recipe in a YAML file, a default recipe for an ONNX file, or the default detector's for `demo`.

    `names` ('coco' or a file) replaces the recipe's class names. Raises ConfigError, ModelError.
    """
    if target == DEMO:
        recipe = load_recipe(Path(str(resources.files("edgesparse").joinpath("demo/parts.yaml"))))
    elif target.suffix.lower() in (".yaml", ".yml"):
        recipe = load_recipe(target)
    elif target.suffix.lower() == ".onnx":
        recipe = parse({"model": str(target)}, str(target))
    else:
        refuse_foreign(target)
        raise ConfigError(f"{target}: needed a recipe (.yaml), a model (.onnx) or 'demo'")
    return recipe.model_copy(update={"classes": named_classes(names, Path())}) if names else recipe


def ready(target: Path, root: Path = STORE, *, names: str | None = None, progress: Progress = quiet) -> Package:
    """Return the verified package of a target. A recipe or ONNX file is built in the store `root` if necessary. Raises
    ConfigError, ModelError, BuildError, PackageError.
    """
    if target == DEMO or target.suffix.lower() in (".yaml", ".yml", ".onnx"):
        from edgesparse.builder.build import build  # a finished package starts without what builds one

        return build(recipe_of(target, names), root, progress=progress, make_current=False).package
    if names:
        raise ConfigError(f"{target} is a package and already has class names: leave out --names")
    refuse_foreign(target)
    return open_package(target)


def open_detector(package: Package, run: Run | None = None) -> Detector:
    """Return a detector for a verified package, with the settings `run` or else the package's own. Close it after use.

    If the engine cannot be loaded, the fallback runs instead: a warning is logged, and the detector's `notice`
    says why. Raises BuildError if neither can be loaded.
    """
    manifest = package.manifest
    try:
        runner = backend(manifest.backend).load(package.engine, manifest.threads, manifest.dla)
    except BuildError as error:
        if manifest.fallback == manifest.engine:
            raise
        return open_fallback(package, run, str(error))
    return _detector(runner, package, run, manifest.precision)


def open_fallback(package: Package, run: Run | None = None, because: str | None = None) -> Detector:
    """Return a detector for a verified package with its most precise engine. Raises BuildError.

    If it takes the place of the chosen one, `because` says why: that is logged, and becomes the detector's `notice`.
    """
    manifest = package.manifest
    runner = backend(manifest.backend).load(package.fallback, manifest.threads, manifest.dla)
    detector = _detector(runner, package, run, manifest.fallback_precision)
    if because is not None:
        fallback = f"the fallback {manifest.fallback} ({manifest.fallback_precision})"
        detector.notice = f"{fallback} runs, since {because}: rebuild with 'edgesparse build --force'"
        _log.warning("%s", detector.notice)
    return detector


def _detector(runner: Runner, package: Package, run: Run | None, precision: str) -> Detector:
    from edgesparse.runtime.detector import Detector  # a program may import it while the engine is loaded

    try:
        return Detector(runner, package.detector, run or package.manifest.run, precision)
    except BaseException:
        runner.close()
        raise
