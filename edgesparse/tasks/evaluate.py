"""Score a detector on annotated images."""

from __future__ import annotations

from edgesparse.builder.targets import open_detector
from edgesparse.config import override
from edgesparse.package.store import Package
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.evaluate import SCORING, Evaluation, evaluate
from edgesparse.runtime.labels.read import Labels


def evaluate_package(
    package: Package, labels: Labels, progress: Progress = quiet, tiles: str | None = None
) -> Evaluation:
    """Return a package's COCO mAP, of whole images unless `tiles` is set as in a recipe. Raises ConfigError,
    BuildError; BackendUnavailable without pycocotools.
    """
    with open_detector(package, override(SCORING, {"tiles": tiles})) as detector:
        return evaluate(detector, labels, lambda done, total: progress("scoring", done, total))
