"""Check the labels of a data set: every fault and, with a detector, which of its classes each category is."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesparse.builder.targets import open_detector
from edgesparse.errors import ConfigError, ImageError
from edgesparse.package.store import Package
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.evaluate import FLOOR, SCORING, detect, diagnose, score
from edgesparse.runtime.labels.base import Content, Fault, Faults, Size
from edgesparse.runtime.labels.geometry import check_geometry
from edgesparse.runtime.labels.matching import guesses
from edgesparse.runtime.labels.read import Labels, annotation_file, inspect_labels, open_image


@dataclass(frozen=True)
class Guess:
    """A possible mapping of a detector's classes to categories, and the detector's score with it."""

    mapping: str
    map: float
    map50: float


@dataclass(frozen=True)
class LabelsReport:
    """The contents and faults of a labels file. `categories`: number of boxes by category name. `guesses`: with a
    detector, the best first. `diagnosis`: why it does not score; empty if it does.
    """

    path: str
    images: int
    boxes: int
    categories: dict[str, int]
    faults: tuple[Fault, ...]
    guesses: tuple[Guess, ...] = ()
    diagnosis: str = ""

    @property
    def sound(self) -> bool:
        """Whether the labels can be used and the detector, if any, scores on them."""
        return not self.diagnosis and not any(fault.fatal for fault in self.faults)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {**asdict(self), "sound": self.sound}


def check_labels(
    annotations: Path, images: Path | None = None, package: Package | None = None, progress: Progress = quiet
) -> LabelsReport:
    """Check a COCO JSON file or a YOLO data set, every image, and a package's score on it.

    Raises ConfigError for a file without any labels, BuildError, BackendUnavailable without pycocotools.
    """
    path = annotation_file(annotations)
    content, faults = inspect_labels(path, images)
    _check_images(path, content, faults, progress)
    guesses: tuple[Guess, ...] = ()
    diagnosis = ""
    if package is not None and not faults.fatal:
        guesses, diagnosis = _score(Labels(path, images), package, progress)
    counts = Counter(box.category for box in content.boxes)
    return LabelsReport(
        path=str(path),
        images=len(content.images),
        boxes=len(content.boxes),
        categories={category.name: counts[index] for index, category in enumerate(content.categories)},
        faults=tuple(faults),
        guesses=guesses,
        diagnosis=diagnosis,
    )


def _check_images(path: Path, content: Content, faults: Faults, progress: Progress) -> None:
    sizes: dict[int, Size] = {}
    for done, image in enumerate(content.images, 1):
        progress("reading images", done, len(content.images))
        if not image.path.is_file():
            continue  # counted when the file was read
        try:
            _, pixels = open_image(image, path)
        except ImageError as error:
            faults.add("images that cannot be read", "replace them", str(error))
        except ConfigError as error:
            faults.add("images whose size differs from the labels'", "use the labels' images", str(error))
        else:
            sizes[image.number] = pixels.shape[1], pixels.shape[0]
    if not faults.fatal:
        unsized = {image.number: sizes[image.number] for image in content.images if image.size is None}
        check_geometry([box for box in content.boxes if box.image in unsized], unsized, content.relative, faults)


def _score(labels: Labels, package: Package, progress: Progress) -> tuple[tuple[Guess, ...], str]:
    names = package.manifest.detector.classes
    with open_detector(package, SCORING) as detector:
        answers = detect(detector, labels, lambda done, total: progress("scoring", done, total))
    results = {
        words: score(labels, answers, names, mapping)
        for words, mapping in guesses(names, labels.categories, labels.used).items()
    }
    ranked = sorted((Guess(words, r.map, r.map50) for words, r in results.items()), key=lambda guess: -guess.map)
    try:
        evaluation = score(labels, answers, names, labels.match(names))
    except ConfigError as error:
        return tuple(ranked), str(error)
    return tuple(ranked), diagnose(labels, answers) if evaluation.map < FLOOR else ""
