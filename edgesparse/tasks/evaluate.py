"""Score a detector on annotated images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesparse.builder.targets import open_detector
from edgesparse.config import override
from edgesparse.package.store import STORE, Package
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.evaluate import SCORING, Evaluation, evaluate
from edgesparse.runtime.labels.read import Labels

TilesLike = str | int | Mapping[str, Any]
"""Tiles as in a recipe: 'none', 'auto', a size, 'SIZE,OVERLAP', or a mapping."""


@dataclass(frozen=True)
class EvaluateOptions:
    """`images`: the folder of the images, if they are not next to the annotations. `names`: class names ('coco' or a
    file) for an ONNX file without them. `tiles`: in place of the recipe's. `store`: where engines are built."""

    images: str | Path | None = None
    names: str | None = None
    tiles: TilesLike | None = None
    store: str | Path = STORE


def evaluate_package(
    package: Package, labels: Labels, progress: Progress = quiet, tiles: TilesLike | None = None
) -> Evaluation:
    """Return a package's COCO mAP. The detector also sees tiles of large images: those of the recipe, or `tiles`.
    Raises ConfigError, BuildError; BackendUnavailable without pycocotools.
    """
    if tiles is None:
        run = SCORING.model_copy(update={"tiles": package.manifest.run.tiles})
    else:
        run = override(SCORING, {"tiles": tiles}, "evaluate")
    with open_detector(package, run) as detector:
        return evaluate(detector, labels, lambda done, total: progress("scoring", done, total))
