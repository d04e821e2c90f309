"""How a changed model shifts the confidences of the boxes that the original keeps, without labels.

A score such as mAP depends on the order of the boxes alone. A model may keep it and report half the confidence, so that
thresholds which were chosen for the original drop what they kept. The calibration curve compares mean confidences per
bin (as in Guo et al., 2017, arXiv:1706.04599), with the original's confidence in place of the accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesparse.confidences import KEPT, ClassShift, ConfidenceShift, CurvePoint
from edgesparse.config import Run
from edgesparse.runtime.agree import IOU, Pair, match
from edgesparse.runtime.overlaps import boxes_overlap

LOW = Run(conf=0.05)
"""How both models run: a box whose confidence falls below KEPT must still be matched, or the shift would look small."""
BINS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BoxPairs:
    """Boxes that two models report alike. `class_id`, and both confidences: [pairs]. On `images` images the original
    keeps `boxes` boxes.
    """

    images: int
    boxes: int
    class_id: NDArray[np.int64]
    before: Floats
    after: Floats


def paired(pairs: Iterable[Pair], kept: float = KEPT) -> BoxPairs:
    """Match pairs of detections, (original, changed), one per image; of the original those with `kept` or more."""
    images, boxes = 0, 0
    values: list[Floats] = [np.zeros((3, 0))]
    for original, changed in pairs:
        some = original[original.confidence >= kept]
        rows, columns, _ = match(some, changed, IOU, boxes_overlap(some.xyxy, changed.xyxy))
        images, boxes = images + 1, boxes + len(some)
        values.append(np.stack([some.class_id[rows], some.confidence[rows], changed.confidence[columns]]).astype(float))
    classes, before, after = np.concatenate(values, axis=1)
    return BoxPairs(images, boxes, classes.astype(np.int64), before, after)


def confidence_shift(pairs: Iterable[Pair], names: Sequence[str]) -> ConfidenceShift | None:
    """Compare pairs of detections, (original, changed), one per image, both run as LOW says; `names` of the classes.

    None if no pair is left: the original keeps no box, or the changed model finds none of them.
    """
    matched = paired(pairs)
    classes, before, after = matched.class_id, matched.before, matched.after
    if not len(before):
        return None
    size = np.abs(after - before)
    return ConfidenceShift(
        matched.images,
        matched.boxes,
        matched.boxes - len(before),
        round(float(np.median(size)), 4),
        round(float(np.percentile(size, 90)), 4),
        round(float(np.median(after - before)), 4),
        tuple(_class(names[each], (after - before)[classes == each]) for each in np.unique(classes)),
        tuple(_curve(before, after)),
    )


def _class(name: str, change: Floats) -> ClassShift:
    return ClassShift(name, len(change), round(float(np.median(change)), 4), round(float(np.median(np.abs(change))), 4))


def _curve(before: Floats, after: Floats) -> Iterable[CurvePoint]:
    edges = np.linspace(KEPT, 1, BINS + 1)
    at = np.clip(np.searchsorted(edges, before, side="right") - 1, 0, BINS - 1)
    for i in np.unique(at):
        inside, (low, high) = at == i, edges[i : i + 2]
        means = (round(float(each[inside].mean()), 4) for each in (before, after))
        yield CurvePoint(round(float(low), 2), round(float(high), 2), int(inside.sum()), *means)
