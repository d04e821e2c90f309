"""What verbs read, checked before any work: the model or recipe, the annotations, the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgesparse.builder.targets import recipe_of
from edgesparse.config import Recipe
from edgesparse.errors import ConfigError
from edgesparse.runtime.evaluate import Labels
from edgesparse.stream.sources.open import open_source

Target = str | Path | Recipe
"""A recipe, its file, an ONNX file, or 'demo'."""


@dataclass(frozen=True)
class Annotated:
    """Annotated images to score on.

    `annotations`: a COCO JSON file, or a folder that holds `instances_val*.json` or `instances.json`. `images`: the
    folder of its images where they are not beside it.
    """

    annotations: Path
    images: Path | None = None

    def read(self) -> Labels:
        """Raises ConfigError where they cannot be read or name no image."""
        return Labels(annotation_file(self.annotations), self.images)


def annotation_file(path: Path) -> Path:
    """The annotation file that `path` names, or the only one in that folder. Raises ConfigError."""
    if not path.is_dir():
        return path
    files = sorted({*path.glob("instances_val*.json"), *path.glob("instances.json")})
    if len(files) != 1:
        raise ConfigError(f"--annotations: found {len(files)} annotation files in {path}, needed one: give its path")
    return files[0]


def as_recipe(target: Target, names: str | None = None) -> Recipe:
    """The recipe of a target, with the class names of `names` ('coco' or a file). Raises ConfigError."""
    if isinstance(target, Recipe):
        return target
    path = Path(target)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: needed a recipe (.yaml) or a model (.onnx)")
    return recipe_of(path, names)


def check_images(source: str) -> None:
    """Raise SourceError where `source` (a folder, glob or video) holds no images."""
    open_source(source).close()
