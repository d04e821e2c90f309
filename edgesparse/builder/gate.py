"""Decides whether a candidate detects well enough, by its score on labels or, weaker, by the reference's detections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from edgesparse.builder.attempts import Attempt
from edgesparse.builder.child.job import ScoreTarget, Scoring
from edgesparse.builder.child.trials import write_reference
from edgesparse.builder.prepare import Prepared, detector_spec, static_model
from edgesparse.compress.maps import FAMILIES
from edgesparse.config import Accept, DetectorSpec, Recipe, Run
from edgesparse.errors import AccuracyGateFailed, BackendUnavailable, ConfigError
from edgesparse.model import load as models
from edgesparse.package.manifest import Score
from edgesparse.progress import Progress
from edgesparse.runtime.confidence_shift import LOW
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Advance, detect, file_detector, require_reference, score
from edgesparse.runtime.images import image_files
from edgesparse.runtime.labels.read import Labels

MARGIN = 0.2
COMPARED = 200
"""Most images on which confidences are compared."""


class Gate:
    """Judges candidates by the recipe's `accept`. The reference is FP32 in ONNX Runtime.

    Raises ConfigError if the recipe requires a score and names no annotations.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._accept = recipe, recipe.accept
        self._labels = _labels(recipe.accept)
        self._base: Score | None = None
        self._reference: Path | None = None
        self._confidences: Path | None = None
        if self._labels is None and recipe.accept.images is None and recipe.accept.max_confidence_shift is not None:
            raise ConfigError("accept.max_confidence_shift needs images to compare on: set accept.images")

    def scoring(self) -> Scoring:
        """What a trial compares the candidate's detections with."""
        if self._labels is not None:
            folder = _absolute(self._accept.images)
            return Scoring(self._labels.path.absolute(), folder, confidences=self._confidences)
        if self._reference is not None:
            run = self._recipe.run.redacted()
            return Scoring(reference=self._reference, run=run, confidences=self._confidences)
        return Scoring()

    def prepare(self, prepared: Prepared, folder: Path, progress: Progress) -> None:
        """Score the reference, or write its detections, if the recipe compares with them. Raises AccuracyGateFailed if
        the reference itself does not score.
        """
        accept = self._accept
        scored = self._labels is not None and accept.max_map_drop is not None
        compared = self._labels is None and accept.images is not None
        if not (scored or compared or accept.max_confidence_shift is not None):
            return
        source, path = models.load(accept.reference or self._recipe.model), folder / "reference.onnx"
        models.save(static_model(source, self._recipe.build.batch.opt, prepared.spec.input.size), path)
        spec = self._reference_spec(source, prepared.spec)

        def reference(run: Run) -> Detector:
            return file_detector(path, spec, run, self._recipe.build.threads)

        advance = partial(progress, "scoring the reference")
        if self._labels is not None and scored:
            with reference(SCORING) as detector:
                self._base = _base(detector, self._labels, advance)
        elif accept.images is not None and compared:
            self._reference = folder / "reference.json"
            with reference(self._recipe.run) as detector:
                _write(detector, image_files(accept.images), self._reference, advance)
        if accept.max_confidence_shift is not None:
            self._confidences = folder / "confidences.json"
            with reference(LOW) as detector:
                _write(detector, self._images(), self._confidences, advance)

    def _reference_spec(self, reference: models.Model, spec: DetectorSpec) -> DetectorSpec:
        """How the reference is read: it may decode its boxes where the recipe's model, after `slim`, has maps."""
        if self._accept.reference is None or spec.head not in FAMILIES.values():
            return spec
        size = self._recipe.input.model_copy(update={"size": spec.input.size})
        recipe = self._recipe.model_copy(update={"head": "auto", "input": size})
        return spec.model_copy(update={"head": detector_spec(reference, recipe).head})

    def _images(self) -> list[Path]:
        """Return the images on which confidences are compared."""
        if self._labels is not None:
            files = [image.path for image in self._labels.images]
            return files[:: max(1, -(-len(files) // COMPARED))]
        assert self._accept.images is not None
        return image_files(self._accept.images, COMPARED)

    def int8_target(self) -> ScoreTarget | None:
        """Return the score that INT8 must reach when it is prepared; None if the recipe requires none. It is higher
        than the gate's by MARGIN of the allowed drop, since ONNX Runtime, which scores INT8 at that point, rounds
        differently from TensorRT.
        """
        accept, minimums = self._accept, [self._accept.min_map or 0.0]
        if self._base is not None and accept.max_map_drop is not None:
            minimums.append(self._base.map - (1 - MARGIN) * accept.max_map_drop)
        if self._labels is None or max(minimums) <= 0:
            return None
        return ScoreTarget(self._labels.path.absolute(), _absolute(accept.images), max(minimums))

    def refusal(self, attempt: Attempt) -> str | None:
        """Return why a candidate is refused, as 'found, needed', or None if it passes."""
        accept, score, agreed = self._accept, attempt.score, attempt.agreement
        if agreed is not None and min(agreed.recall, agreed.precision) < accept.min_agreement:
            return (
                f"found {100 * agreed.recall:.0f} % of FP32's {agreed.boxes} boxes, and {100 * agreed.precision:.0f} % "
                f"of its own are FP32's too, needed accept.min_agreement {100 * accept.min_agreement:.0f} % of each"
            )
        if (reason := self._shifted(attempt)) is not None:
            return reason
        if score is None or self._labels is None:
            return None
        if accept.min_map is not None and score.map < accept.min_map:
            count = len(self._labels.images)
            return f"found {score.map:.1f} {score.metric}, needed accept.min_map {accept.min_map:g} on {count} images"
        if accept.max_map_drop is None or self._base is None:
            return None
        drop = self._base.map - score.map
        if drop <= accept.max_map_drop:
            return None
        return (
            f"found {score.map:.1f} {score.metric}, {drop:.1f} under the reference's {self._base.map:.1f}, "
            f"allowed accept.max_map_drop {accept.max_map_drop:g}"
        )

    def _shifted(self, attempt: Attempt) -> str | None:
        """Return why a candidate's confidences are refused; it finds none of the boxes if it has no shift."""
        allowed, shift = self._accept.max_confidence_shift, attempt.shift
        if allowed is None or (shift is not None and shift.median <= allowed):
            return None
        text = "none of FP32's boxes" if shift is None else str(shift)
        return f"found {text}, allowed accept.max_confidence_shift {allowed:g}"

    def words(self, attempt: Attempt) -> str:
        """Describe how well a candidate that passes detects, for the verdict."""
        if (agreed := attempt.agreement) is not None:
            share = f"{100 * agreed.recall:.0f} % of FP32's {agreed.boxes} boxes on {agreed.images} images"
            return f"finds {share}, which is weaker than a score on labels"
        if attempt.score is None:
            return "not scored: accept.annotations is not set"
        if self._base is None:
            return f"{attempt.score.map:.1f} {attempt.score.metric}"
        drop = self._base.map - attempt.score.map
        return f"{abs(drop):.1f} {attempt.score.metric} {'under' if drop > 0 else 'over'} the reference"


def all_refused(refused: Sequence[Attempt]) -> AccuracyGateFailed:
    """Return the error for a build in which no candidate passes."""
    if len(refused) == 1:
        reason, fix = refused[0].reason, "check head, classes and input, or require less"
        if "under the reference" in reason:
            fix = "quantize or prune less, or allow more"
        return AccuracyGateFailed(f"refused: {reason}: {fix}")
    reasons = "; ".join(f"{attempt.plan.name}: {attempt.reason}" for attempt in refused)
    return AccuracyGateFailed(f"every candidate is refused: {reasons}: quantize or prune less, or allow more")


def _base(detector: Detector, labels: Labels, advance: Advance) -> Score:
    """Return the reference's score. Raises AccuracyGateFailed if it does not score."""
    mapping = labels.match(detector.spec.classes)
    answers = detect(detector, labels, advance)
    evaluation = score(labels, answers, detector.spec.classes, mapping)
    require_reference(evaluation, labels, answers)
    return Score(map=round(evaluation.map, 2), map50=round(evaluation.map50, 2), metric=evaluation.metric)


def _write(detector: Detector, files: Sequence[Path], out: Path, advance: Advance) -> None:
    """Write the reference's detections. Raises AccuracyGateFailed if it detects nothing."""
    if not write_reference(detector, files, out, advance):
        raise AccuracyGateFailed(
            f"the reference itself detects nothing on the images in {files[0].parent}: check the recipe's head and "
            "input, or choose images with objects"
        )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _labels(accept: Accept) -> Labels | None:
    if accept.annotations is not None:
        if find_spec("pycocotools") is None:
            raise BackendUnavailable("scoring needs pycocotools: pip install 'edgesparse[eval]'")
        return Labels(accept.annotations, accept.images)
    if accept.min_map is not None or accept.max_map_drop is not None:
        raise ConfigError("accept: a score needs labeled images: set accept.annotations")
    return None
