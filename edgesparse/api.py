"""The public functions of `import edgesparse`, imported on first use.

What opens a package is imported here. What changes or builds models is imported by the functions that do, the frame
loop with its own names, so that a finished package starts in half the time.

A target is a package (its folder, or the result of `build`), a recipe (its file, or a `Recipe`), an ONNX file, or
'demo', the detector that comes with edgesparse. Recipes and ONNX files are built in `store` on first use and reused
from there. Every function raises EdgeSparseError with a one-line message: what was found, what was needed, how to fix
it. `progress` is called with the step's description, the amount done, and the total amount (0: unknown).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesparse.builder.targets import open_detector, ready
from edgesparse.config import Recipe, override
from edgesparse.package.store import STORE, Package
from edgesparse.progress import Progress, quiet

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from edgesparse.builder.build import Reuse
    from edgesparse.runtime.detector import Detector
    from edgesparse.runtime.evaluate import Evaluation
    from edgesparse.tasks.inputs import Target
    from edgesparse.tasks.inspect import ModelInspection
    from edgesparse.tasks.keywords import EvaluateKeywords, PruneKeywords, QuantizeKeywords, SlimKeywords
    from edgesparse.tasks.prune import PruneResult
    from edgesparse.tasks.quantize import QuantizeResult
    from edgesparse.tasks.slim import SlimResult

__all__ = [
    "build",
    "evaluate",
    "inspect",
    "load",
    "prune",
    "quantize",
]


def load(
    target: Target | Package,
    *,
    names: str | None = None,
    store: str | Path = STORE,
    progress: Progress = quiet,
    **settings: Any,
) -> Detector:
    """Load a detector, building it if necessary. It is a context manager; close it after use.

    `names` are class names ('coco' or a file) for an ONNX file without them. `settings` replace the recipe's `run:`
    section: conf, iou, max_det, classes, agnostic, source.
    Raises ConfigError, ModelError, BuildError, PackageError.
    """
    package = _package(target, names, store, progress)
    return open_detector(package, override(package.manifest.run, settings))


def build(
    target: Target,
    *,
    names: str | None = None,
    store: str | Path = STORE,
    reuse: Reuse = "package",
    keep: str | Path | None = None,
    progress: Progress = quiet,
) -> Package:
    """Build every candidate of a recipe or ONNX file, time and score it, and keep the fastest accepted one.

    Returns the package: `folder`, and `manifest` with every candidate's time, score and outcome. `reuse`: the whole
    "package" of an earlier build with the same inputs; or the "candidates" that an interrupted build finished; or
    "nothing". `keep` is a folder for the files that candidates are built from.
    Raises ConfigError, ModelError, BuildError (AccuracyGateFailed if no candidate is accurate enough),
    BackendUnavailable.
    """
    from edgesparse.builder.build import build as build_recipe
    from edgesparse.tasks.inputs import as_recipe

    folder = None if keep is None else Path(keep)
    return build_recipe(as_recipe(target, names), Path(store), reuse=reuse, progress=progress, keep=folder).package


def inspect(
    model: Target,
    *,
    device: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = quiet,
) -> ModelInspection:
    """Inspect each layer of a model: whether it is 2:4, could be, or why not. `device`, such as "orin-nano-8gb:15W",
    adds predicted times on that board, in milliseconds. `shapes` fixes dynamic input shapes, as {"images": (1, 3, 640,
    640)}. Raises ConfigError, ModelError.
    """
    from edgesparse.tasks.inspect import inspect_file

    return inspect_file(model, device, shapes, progress=progress)


def slim(
    model: Target,
    output: str | Path,
    *,
    names: str | None = None,
    force: bool = False,
    progress: Progress = quiet,
    **options: Unpack[SlimKeywords],
) -> SlimResult:
    """Rewrite a model so that it needs fewer kernels and detects the same, and write it to `output`.

    `options`: `device` and `precision` ("int8" or "fp16") to predict for, `maps=False` to leave the outputs as they
    are. `names`: class names, 'coco' or a file. `force`: overwrite. Nothing is trained and no image is needed.
    Raises ConfigError, ModelError.
    """
    from edgesparse.compress import SlimOptions
    from edgesparse.tasks.slim import slim_file

    return slim_file(model, Path(output), SlimOptions(**options), names, force, progress)


def prune(
    model: Target, output: str | Path, *, progress: Progress = quiet, **options: Unpack[PruneKeywords]
) -> PruneResult:
    """Prune a model to 2:4 and write it to `output`.

    `options` are the fields of PruneOptions: method ("magnitude" or "reconstruct"), images, layers, share, max_drop,
    annotations and more.
    Raises ConfigError, ModelError, SparsityError, CalibrationError, SourceError.
    """
    from edgesparse.tasks.prune import PruneOptions, prune_file

    return prune_file(model, Path(output), PruneOptions(**options), progress)


def quantize(
    model: Target, output: str | Path, *, progress: Progress = quiet, **options: Unpack[QuantizeKeywords]
) -> QuantizeResult:
    """Write a model with Q/DQ for INT8 to `output`, calibrated on `images`.

    `options` are the fields of QuantizeOptions: images (needed), max_drop, annotations, placement, keep and more.
    Raises ConfigError, ModelError, CalibrationError, SourceError.
    """
    from edgesparse.tasks.quantize import QuantizeOptions, quantize_file

    return quantize_file(model, Path(output), QuantizeOptions(**options), progress)


def evaluate(
    target: Target | Package,
    annotations: str | Path,
    *,
    progress: Progress = quiet,
    **options: Unpack[EvaluateKeywords],
) -> Evaluation:
    """Score a detector on annotated images: COCO mAP in points, 0 to 100, overall and per class.

    `annotations` is a COCO JSON file, a YOLO data.yaml, or a folder with one of them. `options` are the fields of
    EvaluateOptions: `images`, their folder, if they are not next to it; `names`; `tiles` as in a recipe ("auto", a
    size, "none"), in place of the recipe's own; `store`.
    Raises ConfigError, ModelError, BuildError, PackageError; BackendUnavailable without pycocotools.
    """
    from edgesparse.tasks.evaluate import EvaluateOptions, evaluate_package
    from edgesparse.tasks.inputs import Annotated

    chosen = EvaluateOptions(**options)
    labels = Annotated(Path(annotations), None if chosen.images is None else Path(chosen.images)).read()
    package = _package(target, chosen.names, chosen.store, progress)
    return evaluate_package(package, labels, progress, chosen.tiles)


def _package(target: Target | Package, names: str | None, store: str | Path, progress: Progress) -> Package:
    if isinstance(target, Package):
        return target
    if isinstance(target, Recipe):
        from edgesparse.builder.build import build as build_recipe
        from edgesparse.tasks.inputs import as_recipe

        recipe = as_recipe(target, names)
        return build_recipe(recipe, Path(store), progress=progress, make_current=False).package
    return ready(Path(target), Path(store), names=names, progress=progress)
