"""Training of all weights of a changed model, without labels, as `--steps` asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesparse.compress.lesson import compared
from edgesparse.compress.start import rounding
from edgesparse.config import DetectorSpec
from edgesparse.int8.placement import QdqPlan
from edgesparse.int8.recover import Train
from edgesparse.model.load import Model
from edgesparse.progress import Progress
from edgesparse.refinement import Trained
from edgesparse.tasks.inputs import ScoredModel, pixels_of

if TYPE_CHECKING:
    from edgesparse.training.refine import Refiner


def training_values(original: Model, changed: Model, spec: DetectorSpec) -> dict[str, Any]:
    """Return the values of a training.lessons.Lesson, but for its steps. Raises what `compared` raises."""
    from edgesparse.training.steps import settings

    return {**compared(original, changed, spec), **settings()}


def refiner(scored: ScoredModel, source: str, count: int, steps: int, progress: Progress) -> Refiner:
    """Return what trains for `steps` on `count` images of `source`, evenly spaced.

    Raises ModelError, naming the node, where PyTorch cannot run the model.
    """
    from edgesparse.training.refine import Refiner

    values = training_values(scored.model, scored.model, scored.spec)
    progress("reading images", 0, 0)
    pixels = pixels_of(source, scored.spec.input, count)
    refiner = Refiner.of(pixels, {**values, "steps": steps})
    refiner.check(scored.model)
    return refiner


def int8_trainer(refiner: Refiner, checkpoint: Path | None = None) -> Train:
    """Return what trains a model with the refiner, rounded to INT8; `checkpoint` is the file to continue from."""

    def train(
        original: Model, changed: Model, qdq: QdqPlan, scales: Mapping[str, float], progress: Progress
    ) -> Trained:
        return refiner.rounding({**rounding(qdq), "scales": scales})(original, changed, checkpoint, progress)

    return train
