"""Two detectors on the same images: how far one finds what the other finds. Needs no labels.

Boxes of one class are paired one to one, those that overlap most first, where intersection over union reaches a
threshold: as PASCAL VOC matches detections to labels, with the reference's boxes in the labels' place (Everingham et
al., "The PASCAL Visual Object Classes Challenge", IJCV 88, 2010).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import ConfigError
from edgesparse.runtime.detections import Detections

IOU = 0.5
Pair = tuple[Detections, Detections]
Detect = Callable[[NDArray[np.uint8]], Detections]
"""A Detector, or anything else that is called with a frame."""


@dataclass(frozen=True)
class Agreement:
    """`recall`: share of the reference's `boxes` that the candidate finds; `precision`: share of the candidate's that
    the reference has. `extra`: how many it has not. `iou`, `score_mean` and `score_max`: of the pairs, mean overlap,
    mean and greatest difference of confidence; with no pair `iou` is 0. All but the counts are 0..1.
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
        """One sentence for people."""
        return (
            f"{100 * self.recall:.1f} % of the reference's {self.boxes} boxes on {self.images} images are found and "
            f"{self.extra} others, mean overlap {self.iou:.3f}, scores {self.score_mean:.3f} apart (at most "
            f"{self.score_max:.2f}); weaker than a score on labels: what the reference gets wrong counts as right"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the verdict."""
        said = {name: round(value, 4) for name, value in asdict(self).items()}
        return {**said, "verdict": self.verdict}


def compare(
    reference: Detect,
    candidate: Detect,
    images: Iterable[NDArray[np.uint8]],
    iou: float = IOU,
    progress: Callable[[int], None] = lambda done: None,
) -> Agreement:
    """Run both detectors on each image (BGR uint8 [H, W, 3]) and compare. Raises as `agreement`."""

    def pairs() -> Iterable[Pair]:
        for done, image in enumerate(images, 1):
            yield reference(image), candidate(image)
            progress(done)

    return agreement(pairs(), iou)


def agreement(pairs: Iterable[Pair], iou: float = IOU) -> Agreement:
    """Compare what was found: (the reference's, the candidate's) detections of each image, in any order.

    Raises ConfigError where there are no images, or the reference finds nothing on any of them.
    """
    images, boxes, found = 0, 0, 0
    overlaps: list[NDArray[np.float64]] = []
    differences: list[NDArray[np.float64]] = []
    for reference, candidate in pairs:
        images, boxes, found = images + 1, boxes + len(reference), found + len(candidate)
        overlap, difference = _matched(reference, candidate, iou)
        overlaps.append(overlap)
        differences.append(difference)
    if not boxes:
        raise ConfigError(f"the reference finds nothing on {images} images: give images with objects on them")
    overlap, difference = np.concatenate(overlaps), np.concatenate(differences)
    both = len(overlap)
    return Agreement(
        images=images,
        boxes=boxes,
        extra=found - both,
        recall=both / boxes,
        precision=both / found if found else 0.0,
        iou=float(overlap.mean()) if both else 0.0,
        score_mean=float(difference.mean()) if both else 0.0,
        score_max=float(difference.max()) if both else 0.0,
    )


def _matched(one: Detections, other: Detections, least: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each pair: overlap, and difference of confidence. Neither the boxes' order nor the side decides who pairs."""
    overlap = np.where(one.class_id[:, None] == other.class_id, _overlap(one.xyxy, other.xyxy), 0.0)
    apart = np.abs(one.confidence[:, None].astype(np.float64) - other.confidence)
    rows, columns = np.nonzero(overlap >= least)
    # the greatest overlap first, then the likest score; what is still equal goes by where the two boxes lie
    low, high = np.minimum(one.xyxy[rows], other.xyxy[columns]).T, np.maximum(one.xyxy[rows], other.xyxy[columns]).T
    order = np.lexsort((*low, *high, apart[rows, columns], -overlap[rows, columns]))
    free_rows, free_columns = np.ones(len(one), np.bool_), np.ones(len(other), np.bool_)
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    at = np.array(pairs, np.intp).reshape(-1, 2).T
    return overlap[at[0], at[1]], apart[at[0], at[1]]


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of each box with each, [n, 4] and [m, 4] to [n, m]; 1 for the same box without area."""
    a, b = one.astype(np.float64)[:, None], other.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inside = sides.clip(0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inside
    shared: NDArray[np.float64] = np.where(union > 0, inside / np.where(union > 0, union, 1), (a == b).all(-1))
    return shared
