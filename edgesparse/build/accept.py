"""Whether a candidate detects well enough: by its score on labelled pictures, or, weaker, by FP32's detections."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgesparse.backends import backend
from edgesparse.build.attempts import Tried
from edgesparse.build.prepare import Prepared
from edgesparse.build.worker import Progress
from edgesparse.config import Recipe
from edgesparse.errors import AccuracyGateFailed, BackendUnavailable, ConfigError
from edgesparse.graph import model as graph
from edgesparse.package.manifest import Score
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Labels, evaluate


class Gate:
    """Judges candidates by the recipe's `accept`. FP32 in ONNX Runtime is what they are held against.

    Raises ConfigError when the recipe asks for a score and has no labels.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._accept = recipe, recipe.accept
        self._labels = _labels(recipe)
        self._base: Score | None = None

    def asks(self) -> dict[str, Any]:
        """What the trial of a candidate needs to be told."""
        if self._labels is not None:
            return {"labels": [str(self._labels.path.absolute()), str(self._labels.folder.absolute())]}
        return {}

    def prepare(self, prepared: Prepared, folder: Path, progress: Progress) -> None:
        """Score the reference, where the recipe compares with it."""
        if self._labels is None or self._accept.max_map_drop is None:
            return
        source, path = graph.load(self._accept.reference or self._recipe.model), folder / "reference.onnx"
        graph.save(graph.fix_shapes(source, self._recipe.build.batch, prepared.spec.input.size), path)
        runner = backend("onnxruntime").load(path, self._recipe.build.threads)
        with Detector(runner, prepared.spec, SCORING) as detector:
            found = evaluate(detector, self._labels, lambda *step: progress("scoring the reference", *step))
        self._base = Score(map=round(found.map, 2), map50=round(found.map50, 2))

    def refuses(self, tried: Tried) -> str | None:
        """Why a candidate is out, as 'found, needed'; None when it passes."""
        accept, score = self._accept, tried.score
        if score is None or self._labels is None:
            return None
        if accept.min_map is not None and score.map < accept.min_map:
            pictures = len(self._labels.images)
            return f"found {score.map:.1f} mAP, needed accept.min_map {accept.min_map:g} on {pictures} pictures"
        if accept.max_map_drop is None or self._base is None:
            return None
        drop = self._base.map - score.map
        if drop <= accept.max_map_drop:
            return None
        return (
            f"found {score.map:.1f} mAP, {drop:.1f} under the reference's {self._base.map:.1f}, "
            f"allowed accept.max_map_drop {accept.max_map_drop:g}"
        )

    def words(self, tried: Tried) -> str:
        """How a candidate that passes detects."""
        if tried.score is None:
            return "not scored: accept.annotations is not set"
        if self._base is None:
            return f"{tried.score.map:.1f} mAP"
        drop = self._base.map - tried.score.map
        return f"{abs(drop):.1f} mAP {'under' if drop > 0 else 'over'} the reference"

    @property
    def labelled(self) -> bool:
        return self._labels is not None


def all_refused(refused: list[Tried]) -> AccuracyGateFailed:
    """The error when no candidate passes."""
    if len(refused) == 1:
        found, mend = refused[0].reason, "check head, classes and input, or ask for less"
        if "under the reference" in found:
            mend = "quantise or prune less, or allow more"
        return AccuracyGateFailed(f"refused: {found}: {mend}")
    found = "; ".join(f"{tried.plan.name}: {tried.reason}" for tried in refused)
    return AccuracyGateFailed(f"every candidate is refused: {found}: quantise or prune less, or allow more")


def _labels(recipe: Recipe) -> Labels | None:
    accept: Mapping[str, Any] = recipe.accept.model_dump()
    if accept["annotations"] is not None:
        if find_spec("pycocotools") is None:
            raise BackendUnavailable("scoring needs pycocotools: pip install 'edgesparse[eval]'")
        return Labels(accept["annotations"], accept["images"])
    if accept["min_map"] is not None or accept["max_map_drop"] is not None:
        raise ConfigError("accept: a score is asked for without labelled pictures: set accept.annotations")
    return None
