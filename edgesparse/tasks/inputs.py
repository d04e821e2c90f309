"""The inputs of verbs, checked before any work: the model or recipe, the annotations, the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.builder.prepare import detector_spec, prepare
from edgesparse.builder.targets import DEMO, recipe_of
from edgesparse.classes import named_classes
from edgesparse.config import DetectorSpec, InputSpec, Recipe, override
from edgesparse.disk import scratch
from edgesparse.errors import BackendUnavailable, ConfigError
from edgesparse.model.check import require_finite
from edgesparse.model.load import Model, load
from edgesparse.progress import Progress
from edgesparse.runtime.evaluate import ModelScorer
from edgesparse.runtime.images import ImageBatches
from edgesparse.runtime.labels.read import Labels
from edgesparse.stream.sources.open import check_source, image_batches, open_source

NO_SOURCE = "no source: pass --source, or set run.source in the recipe"
Target = str | Path | Recipe
"""A recipe, its file, an ONNX file, or 'demo'."""


@dataclass(frozen=True)
class Annotated:
    """Annotated images to score on.

    `annotations`: a COCO JSON file, a YOLO data.yaml, or a folder that holds one of them. `images`: the folder of the
    images, if they are not next to it.
    """

    annotations: Path
    images: Path | None = None

    def read(self) -> Labels:
        """Read the labels. Raises ConfigError if they cannot be read or name no images."""
        return Labels(self.annotations, self.images)


def read_annotations(annotations: str | Path | None, images: str | Path | None) -> Labels | None:
    """Return the labels to score on, or None without `annotations`. Raises what `Annotated.read` raises."""
    if annotations is None:
        return None
    return Annotated(Path(annotations), None if images is None else Path(images)).read()


@dataclass(frozen=True)
class ScoredModel:
    """A model, what it detects and how, images to run it on, and its scorer, if there are annotations."""

    model: Model
    spec: DetectorSpec
    images: ImageBatches
    scorer: ModelScorer | None


def static_model(recipe: Recipe) -> tuple[Model, DetectorSpec]:
    """Return the model of a recipe with its batch and size, and constants folded, and what it detects and how.

    Raises ConfigError, ModelError.
    """
    with scratch() as folder:
        prepared = prepare(recipe, folder)
        model = load(prepared.simplified)
    del model.metadata_props[:]
    model.metadata_props.extend(load(recipe.model).metadata_props)
    return model, prepared.spec


def read_model(
    recipe: Recipe, source: str, count: int, labels: Labels | None, progress: Progress, static: bool = False
) -> ScoredModel:
    """Read the model of a recipe, with at most `count` images of `source`, and score it on `labels` as the reference.

    `static`: as `static_model` returns it. Raises ConfigError, ModelError, SourceError; AccuracyGateFailed if the model
    itself does not score.
    """
    progress("reading the model", 0, 0)
    if static:
        model, spec = static_model(recipe)
    else:
        model = load(recipe.model)
        require_finite(model)
        spec = detector_spec(model, recipe)
    images = image_batches(source, spec.input, count)
    scorer = ModelScorer(spec, labels, partial(progress, "scoring")) if labels else None
    if scorer is not None:
        scorer.reference(model)
    return ScoredModel(model, spec, images, scorer)


def as_recipe(target: Target, names: str | None = None) -> Recipe:
    """Return the recipe of a target, with the class names in `names` ('coco' or a file). Raises ConfigError."""
    if isinstance(target, Recipe):
        return target.model_copy(update={"classes": named_classes(names, Path())}) if names else target
    path = Path(target)
    if path != DEMO and path.is_dir():
        raise ConfigError(f"{path} is a folder: needed a recipe (.yaml) or a model (.onnx)")
    return recipe_of(path, names)


def check_numbers(count: int, max_drop: float | None, share: float | None = None) -> None:
    """Raise ConfigError for an impossible number of images, points or share."""
    if count < 1:
        raise ConfigError(f"--count: found {count}, needed 1 or more")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise ConfigError(f"--max-drop: found {max_drop:g}, needed 0 to 100 points")
    if share is not None and not 0 < share <= 1:
        raise ConfigError(f"--share: found {share:g}, needed more than 0 and at most 1")


def check_images(source: str) -> None:
    """Raise SourceError if `source` (a folder, glob or video) holds no images."""
    open_source(source).close()


def check_sources(target: Path, overrides: Mapping[str, Any]) -> None:
    """Check the sources of a recipe or ONNX file before it is built: files are opened, addresses only read.

    `overrides` replace the recipe's `run:` section. Raises ConfigError, SourceError.
    """
    if target != DEMO and target.is_dir():
        return  # a package: nothing is built
    cameras = override(recipe_of(target).run, dict(overrides)).all_cameras()
    if not cameras:
        raise ConfigError(NO_SOURCE)
    for camera in cameras:
        check_source(str(camera.source))


def pixels_of(source: str, spec: InputSpec, count: int) -> NDArray[np.uint8]:
    """At most `count` images of a folder, glob or video, letterboxed: uint8 [N, 3, H, W] in the input's color order.

    Raises SourceError, ImageError.
    """
    return pixels(spec, lambda plain: image_batches(source, plain, count))


def pixels(spec: InputSpec, batches_of: Callable[[InputSpec], ImageBatches]) -> NDArray[np.uint8]:
    """The images of `batches_of` as `pixels_of` returns them; it is called with an input that scales no values."""
    plain = spec.model_copy(update={"scale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    return np.concatenate([batch.clip(0, 255).astype(np.uint8) for batch in batches_of(plain)()])


def need_torch(what: str) -> None:
    """Raise BackendUnavailable if PyTorch, which `what` needs, is not installed."""
    if find_spec("torch") is None:
        raise BackendUnavailable(f"{what} needs PyTorch, which is not installed: pip install 'edgesparse[train]'")
