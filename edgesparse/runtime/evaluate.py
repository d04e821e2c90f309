"""The score of a detector on labeled images: COCO mAP of boxes, masks, keypoints or rotated boxes, or top-1."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, Run
from edgesparse.disk import scratch
from edgesparse.errors import AccuracyGateFailed
from edgesparse.model.load import Model, fix_shapes, info, save
from edgesparse.runtime.coco_scores import METRICS, import_pycocotools, points_of, run_coco, shapes_of
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.base import Task
from edgesparse.runtime.heads.registry import head
from edgesparse.runtime.labels.base import LabeledImage, Size
from edgesparse.runtime.labels.matching import ClassMapping
from edgesparse.runtime.labels.read import Labels

SCORING = Run(conf=0.001, iou=0.65, max_det=300, multi_label=True)
"""The usual settings for COCO mAP: almost every box and class counts, so that the whole
precision-recall curve is covered."""
FLOOR = 1.0
"""Points of mAP. A reference below this detects next to nothing, so comparing with it is meaningless."""

Image = NDArray[np.uint8]
Advance = Callable[[int, int], None]
"""Called with the number of finished images, and the total."""


@dataclass(frozen=True)
class ClassScore:
    """One class's points, 0..100, as in `Evaluation`, and its number of labeled objects."""

    name: str
    map: float
    map50: float
    boxes: int


@dataclass(frozen=True)
class Evaluation:
    """Points, 0..100. `map` is over IoU 0.50 to 0.95; small, medium and large follow COCO's areas; -1 without such
    boxes. `metric`: what the points are of, such as `mask mAP`. For a classifier `map` is top-1, and `map50` top-5.
    """

    map: float
    map50: float
    map75: float
    small: float
    medium: float
    large: float
    classes: tuple[ClassScore, ...]
    images: int
    metric: str = "mAP"
    note: str = ""
    """The reason for a low score: names, sizes or input; empty from FLOOR points on."""
    tiles: bool = False
    """Whether the detector also saw tiles of the images."""


@dataclass
class Answers:
    """A detector's results on labeled images: rows of image, x, y, width, height, score, class; the shape of each
    (`shapes_of`), and the image sizes.
    """

    task: Task = "detect"
    rows: list[list[float]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[int, Size] = field(default_factory=dict)


def evaluate(detector: Detector, labels: Labels, progress: Advance = lambda done, total: None) -> Evaluation:
    """Score a detector, opened with SCORING, on labeled images. Raises ConfigError if categories match no class or
    boxes do not fit their images, ImageError for an image that cannot be read, BackendUnavailable without pycocotools.
    """
    import_pycocotools()
    mapping = labels.match(detector.spec.classes)
    answers = detect(detector, labels, progress)
    result = replace(score(labels, answers, detector.spec.classes, mapping), tiles=detector.tiles is not None)
    return result if result.map >= FLOOR else replace(result, note=diagnose(labels, answers))


def detect(detector: Detector, labels: Labels, progress: Advance = lambda done, total: None) -> Answers:
    """Run a detector on every labeled image. Raises what `evaluate` raises."""
    answers = Answers(head(detector.spec.head).task)
    labels.require(answers.task)
    batch: list[tuple[LabeledImage, Image]] = []
    total = len(labels.images)
    for done, item in enumerate(labels.read(), 1):
        batch.append(item)
        if len(batch) == detector.batch or done == total:
            for (image, pixels), detections in zip(batch, detector.detect([p for _, p in batch]), strict=True):
                answers.rows += _rows(image.number, detections)
                answers.shapes += shapes_of(detections)
                answers.sizes[image.number] = pixels.shape[1], pixels.shape[0]
            batch.clear()
            progress(done, total)
    labels.check_sizes(answers.sizes)
    return answers


def score(labels: Labels, answers: Answers, names: Sequence[str], mapping: ClassMapping) -> Evaluation:
    """Return the score of a detector's answers, with its classes mapped to these categories."""
    if answers.task == "classify":
        return _accuracy(labels, answers, names, mapping)
    rows, shapes = [], []
    for row, shape in zip(answers.rows, answers.shapes or repeat({}), strict=False):
        if (category := mapping[int(row[6])]) is not None:
            rows.append([*row[:6], category + 1])
            shapes.append(shape)
    images, metric = len(labels.images), METRICS[answers.task]
    run = run_coco(answers.task, labels.as_coco(answers.sizes), rows, shapes)
    if run is None:
        return Evaluation(0, 0, 0, 0, 0, 0, (), images, metric)
    total, half, strict, small, medium, large = points_of(run, answers.task)
    classes = _by_class(run, labels, names, mapping)
    return Evaluation(total, half, strict, small, medium, large, classes, images, metric)


def _accuracy(labels: Labels, answers: Answers, names: Sequence[str], mapping: ClassMapping) -> Evaluation:
    """Return a classifier's top-1 and top-5: the share of images whose class is its best, or one of its best five."""
    ranked: dict[int, list[int | None]] = defaultdict(list)
    for row in sorted(answers.rows, key=lambda row: -row[5]):
        ranked[int(row[0])].append(mapping[int(row[6])])
    hits: dict[int, list[tuple[bool, bool]]] = defaultdict(list)
    for box in labels.boxes:
        best = ranked[box.image]
        hits[box.category].append((best[:1] == [box.category], box.category in best[:5]))
    known = {category: name for name, category in zip(names, mapping, strict=True) if category is not None}
    classes = []
    for each in sorted(hits):
        first, five = (100 * np.mean(hits[each], axis=0)).tolist()
        classes.append(ClassScore(known.get(each, labels.categories[each].name), first, five, len(hits[each])))
    top1, top5 = (100 * np.mean([hit for group in hits.values() for hit in group], axis=0)).tolist()
    return Evaluation(top1, top5, -1, -1, -1, -1, tuple(classes), len(labels.images), METRICS["classify"])


def diagnose(labels: Labels, answers: Answers) -> str:
    """Return the reason for a detector's low score on these labels: its input, the class names, or sizes."""
    confident = [row for row in answers.rows if row[5] >= 0.25]
    if not confident:
        best = max((row[5] for row in answers.rows), default=0.0)
        return (
            f"it finds nothing on {len(labels.images)} images (highest confidence {best:.2f}): check the recipe's head "
            "and input (colour, scale, mean, std), or the model's weights"
        )
    if answers.task == "classify":
        return "none of its classes is that of the images: check the order of the names, and the recipe's input"
    truth = labels.as_coco(answers.sizes)
    for box in truth["annotations"]:
        box["category_id"] = 1
    truth["categories"] = [{"id": 1, "name": "any"}]
    run = run_coco("detect", truth, [[*row[:6], 1] for row in answers.rows], ())
    any_class = 100 * float(run.stats[1]) if run is not None else 0.0
    if any_class >= 10 * FLOOR:
        return (
            f"its boxes match the labels' when classes are ignored (mAP50 {any_class:.0f}), its classes do not: check "
            f"the order of the names; 'edgesparse check-labels {labels.path} DETECTOR' scores every guess"
        )
    return (
        f"none of its {len(confident)} confident boxes is where the labels have one: check that the labels belong to "
        "these images, and the recipe's input.letterbox and size"
    )


def require_reference(evaluation: Evaluation, labels: Labels, answers: Answers) -> None:
    """Raise AccuracyGateFailed, with the reason, if a reference scores too little to compare anything with."""
    if evaluation.map < FLOOR:
        raise AccuracyGateFailed(
            f"the reference itself scores {max(evaluation.map, 0):.1f} {evaluation.metric} on {labels.path}, "
            f"needed {FLOOR:g} to compare with: {diagnose(labels, answers)}"
        )


class ModelScorer:
    """Scores models in memory with ONNX Runtime: called with a float or Q/DQ model, it returns `Evaluation.map`."""

    def __init__(self, spec: DetectorSpec, labels: Labels, progress: Advance) -> None:
        self._spec, self._labels, self._progress = spec, labels, progress
        self._reference: tuple[bytes, float] | None = None

    def reference(self, model: Model) -> float:
        """Return the score of a reference. Raises AccuracyGateFailed if it does not score."""
        evaluation, answers = self._evaluate(model)
        require_reference(evaluation, self._labels, answers)
        self._reference = model.SerializeToString(deterministic=True), evaluation.map
        return evaluation.map

    def __call__(self, model: Model) -> float:
        """Return the score. Raises what `Detector` and `evaluate` raise."""
        if self._reference is not None and model.SerializeToString(deterministic=True) == self._reference[0]:
            return self._reference[1]
        return self._evaluate(model)[0].map

    def _evaluate(self, model: Model) -> tuple[Evaluation, Answers]:
        import_pycocotools()
        names = self._spec.classes
        mapping = self._labels.match(names)
        with opened(model, self._spec, SCORING) as detector:
            answers = detect(detector, self._labels, self._progress)
        return score(self._labels, answers, names, mapping), answers


@contextmanager
def opened(model: Model, spec: DetectorSpec, run: Run) -> Iterator[Detector]:
    """Open a detector of a model in memory, with ONNX Runtime. Raises what `Detector` raises."""
    with scratch() as folder:
        path = folder / "model.onnx"
        save(_static(model, spec), path)
        with file_detector(path, spec, run) as detector:
            yield detector


def file_detector(path: Path, spec: DetectorSpec, run: Run, threads: int = 0) -> Detector:
    """Return a detector of a model's file, with ONNX Runtime. Raises what `Detector` raises."""
    with ExitStack() as on_error:
        runner = on_error.enter_context(backend("onnxruntime").load(path, threads))
        detector = Detector(runner, spec, run)
        on_error.pop_all()
    return detector


def _static(model: Model, spec: DetectorSpec) -> Model:
    """Return the model at batch 1 and its input size, if its shapes are dynamic."""
    description = info(model)
    return fix_shapes(model, 1, spec.input.size) if None in description.inputs[description.image] else model


def _rows(image: int, detections: Detections) -> list[list[float]]:
    """Return a row per detection: image, x, y, width, height, score, class."""
    return [
        [image, x1, y1, x2 - x1, y2 - y1, float(confidence), label]
        for (x1, y1, x2, y2), confidence, label in zip(
            detections.xyxy.tolist(), detections.confidence, detections.class_id.tolist(), strict=True
        )
    ]


def _by_class(run: Any, labels: Labels, names: Sequence[str], mapping: ClassMapping) -> tuple[ClassScore, ...]:
    """Return scores of classes with boxes. Precision is [IoU, recall, class, area, detections]; all areas and most
    detections count."""
    precision = run.eval["precision"][:, :, :, 0, -1]
    columns = {int(category): precision[:, :, i] for i, category in enumerate(run.params.catIds)}
    known = {category: name for name, category in zip(names, mapping, strict=True) if category is not None}
    return tuple(
        ClassScore(
            known.get(category, labels.categories[category].name),
            _mean(columns[category + 1]),
            _mean(columns[category + 1][0]),
            count,
        )
        for category, count in sorted(Counter(box.category for box in labels.boxes).items())
    )


def _mean(precision: NDArray[np.float64]) -> float:
    """Return the mean in points, without -1, which is COCO's mark for no value."""
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if valid.size else 0.0
