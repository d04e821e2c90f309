"""How well two detectors agree on the same images, without labels.

Objects of a class are paired one to one, largest overlap first, if it reaches a threshold. PASCAL VOC matches
detections to labels in this way (Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 88, 2010); here
the reference's objects take the place of labels. Masks, rotated boxes and keypoints are compared where both detectors
report them, so that right boxes do not hide wrong shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import ConfigError
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.overlaps import shapes_overlap

IOU = 0.5
Pair = tuple[Detections, Detections]
Detect = Callable[[NDArray[np.uint8]], Detections]
"""A Detector, or any other function from a frame to detections."""


@dataclass(frozen=True)
class Agreement:
    """`recall`: share of the reference's `boxes` that the candidate detects; `precision`: share of the candidate's
    boxes that the reference has; `extra`: the number of others. For the pairs, `iou` is the mean overlap (0 if there
    are none), of masks, rotated boxes or keypoints if both report them (shapes_overlap); `score_mean` and `score_max`
    are the mean and largest difference of confidence. All but the counts are 0..1.
    """

    images: int
    boxes: int
    extra: int
    recall: float
    precision: float
    iou: float
    score_mean: float
    score_max: float

    @property
    def verdict(self) -> str:
        """Return a sentence for people."""
        return (
            f"{100 * self.recall:.1f} % of the reference's {self.boxes} boxes on {self.images} images are detected and "
            f"{self.extra} others, mean overlap {self.iou:.3f}, confidences differ by {self.score_mean:.3f} (at most "
            f"{self.score_max:.2f}); weaker than a score on labels, since the reference's errors count as correct"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values, with the verdict."""
        values = {name: round(value, 4) for name, value in asdict(self).items()}
        return {**values, "verdict": self.verdict}


def compare(
    reference: Detect,
    candidate: Detect,
    images: Iterable[NDArray[np.uint8]],
    iou: float = IOU,
    progress: Callable[[int], None] = lambda done: None,
) -> Agreement:
    """Run both detectors on each image (BGR uint8 [H, W, 3]) and compare. Raises what `agreement` raises."""

    def pairs() -> Iterable[Pair]:
        for done, image in enumerate(images, 1):
            yield reference(image), candidate(image)
            progress(done)

    return agreement(pairs(), iou)


def agreement(pairs: Iterable[Pair], iou: float = IOU) -> Agreement:
    """Compare pairs of detections, (reference, candidate), one per image, in any order. Raises ConfigError without
    images, or if the reference detects nothing on any of them.
    """
    images, boxes, detected = 0, 0, 0
    overlaps: list[NDArray[np.float64]] = []
    differences: list[NDArray[np.float64]] = []
    for reference, candidate in pairs:
        images, boxes, detected = images + 1, boxes + len(reference), detected + len(candidate)
        rows, columns, overlap = match(reference, candidate, iou, shapes_overlap(reference, candidate))
        overlaps.append(overlap)
        differences.append(np.abs(reference.confidence[rows].astype(np.float64) - candidate.confidence[columns]))
    if not boxes:
        raise ConfigError(f"the reference detects nothing on {images} images: choose images with objects")
    overlap, difference = np.concatenate(overlaps), np.concatenate(differences)
    pairs_count = len(overlap)
    return Agreement(
        images=images,
        boxes=boxes,
        extra=detected - pairs_count,
        recall=pairs_count / boxes,
        precision=pairs_count / detected if detected else 0.0,
        iou=float(overlap.mean()) if pairs_count else 0.0,
        score_mean=float(difference.mean()) if pairs_count else 0.0,
        score_max=float(difference.max()) if pairs_count else 0.0,
    )


def match(
    reference: Detections, candidate: Detections, threshold: float, overlap: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the pairs of objects, as indices into both sides, and their overlap. `overlap`: of all, [n, m].

    Which objects are paired does not depend on the order of the objects and of the two sides.
    """
    overlap = np.where(reference.class_id[:, None] == candidate.class_id, overlap, 0.0)
    apart = np.abs(reference.confidence[:, None].astype(np.float64) - candidate.confidence)
    rows, columns = np.nonzero(overlap >= threshold)
    # largest overlap first, then most similar confidence; ties are broken by the boxes' positions
    boxes = reference.xyxy[rows], candidate.xyxy[columns]
    low, high = np.minimum(*boxes).T, np.maximum(*boxes).T
    order = np.lexsort((*low, *high, apart[rows, columns], -overlap[rows, columns]))
    free_rows, free_columns = np.ones(len(reference), np.bool_), np.ones(len(candidate), np.bool_)
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    at = np.array(pairs, np.intp).reshape(-1, 2).T
    return at[0], at[1], overlap[at[0], at[1]]
