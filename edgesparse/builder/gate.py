"""Whether a candidate detects well enough: by its score on labelled images, or, weaker, by FP32's detections."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgesparse.backends import backend
from edgesparse.builder.attempts import Tried
from edgesparse.builder.child.trials import reference
from edgesparse.builder.prepare import Prepared
from edgesparse.config import Recipe
from edgesparse.errors import AccuracyGateFailed, BackendUnavailable, ConfigError
from edgesparse.model import load as models
from edgesparse.package.manifest import Score
from edgesparse.progress import Progress
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Labels, evaluate

MARGIN = 0.2


class Gate:
    """Judges candidates by the recipe's `accept`. FP32 in ONNX Runtime is what they are held against.

    Raises ConfigError when the recipe asks for a score and has no labels.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._accept = recipe, recipe.accept
        self._labels = _labels(recipe)
        self._base: Score | None = None
        self._known: Path | None = None

    def asks(self) -> dict[str, Any]:
        """What the trial of a candidate needs to be told."""
        if self._labels is not None:
            return {"labels": [str(self._labels.path.absolute()), str(self._labels.folder.absolute())]}
        if self._known is not None:
            return {"images": str(self._known), "run": self._recipe.run.redacted().model_dump_json()}
        return {}

    def prepare(self, prepared: Prepared, folder: Path, progress: Progress) -> None:
        """Score the reference, or note what it detects, where the recipe compares with it."""
        accept = self._accept
        if (self._labels is None and accept.images is None) or (self._labels and accept.max_map_drop is None):
            return
        source, path = models.load(accept.reference or self._recipe.model), folder / "reference.onnx"
        models.save(models.fix_shapes(source, self._recipe.build.batch.opt, prepared.spec.input.size), path)
        runner = backend("onnxruntime").load(path, self._recipe.build.threads)
        run, step = SCORING if self._labels else self._recipe.run, partial(progress, "scoring the reference")
        with Detector(runner, prepared.spec, run) as detector:
            if self._labels is not None:
                found = evaluate(detector, self._labels, step)
                self._base = Score(map=round(found.map, 2), map50=round(found.map50, 2))
            elif accept.images is not None:
                self._known = folder / "reference.json"
                reference(detector, accept.images, self._known, step)

    def asks_of_int8(self) -> dict[str, Any]:
        """What INT8 is to reach when it is prepared: on `labels` the `least` mAP; nothing where no score is asked for.

        It aims higher than the gate by MARGIN of the allowed drop, since TensorRT does not compute just what ONNX
        Runtime does, which scores it there.
        """
        accept, floors = self._accept, [self._accept.min_map or 0.0]
        if self._base is not None and accept.max_map_drop is not None:
            floors.append(self._base.map - (1 - MARGIN) * accept.max_map_drop)
        return {**self.asks(), "least": max(floors)} if self._labels is not None and max(floors) > 0 else {}

    def refuses(self, tried: Tried) -> str | None:
        """Why a candidate is out, as 'found, needed'; None when it passes."""
        accept, score, agreed = self._accept, tried.score, tried.agreement
        if agreed is not None and min(agreed.recall, agreed.precision) < accept.min_agreement:
            return (
                f"found {100 * agreed.recall:.0f} % of FP32's {agreed.boxes} boxes, and {100 * agreed.precision:.0f} % "
                f"of its own are FP32's too, needed accept.min_agreement {100 * accept.min_agreement:.0f} % of each"
            )
        if score is None or self._labels is None:
            return None
        if accept.min_map is not None and score.map < accept.min_map:
            count = len(self._labels.images)
            return f"found {score.map:.1f} mAP, needed accept.min_map {accept.min_map:g} on {count} images"
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
        if (agreed := tried.agreement) is not None:
            found = f"{100 * agreed.recall:.0f} % of FP32's {agreed.boxes} boxes on {agreed.images} images"
            return f"finds {found}, which is weaker than a score on labels"
        if tried.score is None:
            return "not scored: accept.annotations is not set"
        if self._base is None:
            return f"{tried.score.map:.1f} mAP"
        drop = self._base.map - tried.score.map
        return f"{abs(drop):.1f} mAP {'under' if drop > 0 else 'over'} the reference"


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
        raise ConfigError("accept: a score is asked for without labelled images: set accept.annotations")
    return None
