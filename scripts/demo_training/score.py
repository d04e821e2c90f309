"""COCO's mean average precision in NumPy, for machines without pycocotools (all areas, at most 100 boxes per image)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
LEAST, OVERLAP, CANDIDATES, MOST = 0.001, 0.7, 300, 100


@dataclass(frozen=True)
class Detected:
    """Detections in one image: `xyxy` [n, 4], `confidence` [n] in descending order, `class_id` [n]."""

    xyxy: Floats
    confidence: Floats
    class_id: NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    xyxy: Floats
    class_id: NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """Average precision, 0..100: over IoU 0.50 to 0.95, at 0.50, and per class over all IoUs."""

    map: float
    map50: float
    by_class: tuple[float, ...]


def decode(output: Floats) -> Detected:
    """Convert one image's output [4 + classes, N] to boxes, with non-maximum suppression per class."""
    scores = output[4:].max(0)
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    order = order[scores[order] > LEAST]
    centre, half = output[:2, order].T, output[2:4, order].T / 2
    xyxy, class_id = np.concatenate([centre - half, centre + half], 1), output[4:, order].argmax(0)
    keep = _suppress(xyxy, class_id)
    return Detected(xyxy[keep], scores[order][keep], class_id[keep])


def evaluate(results: list[Detected], truth: list[Truth], classes: int) -> Score:
    """Score the detections in each image against its ground truth. A class without ground truth does not count."""
    precision = np.array([_class_precision(results, truth, c) for c in range(classes)])
    by_class = precision.mean(1) * 100
    return Score(float(np.nanmean(by_class)), float(np.nanmean(precision[:, 0]) * 100), tuple(by_class.tolist()))


def overlaps(a: Floats, b: Floats) -> Floats:
    """Return the IoU of each box in a [n, 4] with each in b [m, 4]: [n, m]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    result: Floats = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    return result


def _suppress(xyxy: Floats, class_id: NDArray[np.int64]) -> list[int]:
    clash = (overlaps(xyxy, xyxy) > OVERLAP) & (class_id[:, None] == class_id[None])
    suppressed = np.zeros(len(xyxy), bool)
    keep = []
    for i in range(len(xyxy)):
        if not suppressed[i]:
            keep.append(i)
            suppressed |= clash[i]
    return keep[:MOST]


def _class_precision(results: list[Detected], truth: list[Truth], class_id: int) -> NDArray[np.float64]:
    """Return average precision at each threshold, [10]; NaN if the class has no ground truth."""
    confidence, matched, total = [], [], 0
    for a, b in zip(results, truth, strict=True):
        mine, real = a.class_id == class_id, b.xyxy[b.class_id == class_id]
        confidence.append(a.confidence[mine])
        matched.append(_match(a.xyxy[mine], real))
        total += len(real)
    if not total:
        return np.full(len(THRESHOLDS), np.nan)
    order = np.argsort(-np.concatenate(confidence), kind="stable")
    hits = np.concatenate(matched, 1)[:, order].cumsum(1)
    return np.array([_average(row, total) for row in hits])


def _match(boxes: Floats, real: Floats) -> NDArray[np.bool_]:
    """Return which boxes, by descending confidence, match an unmatched real one, at each threshold: [10, n]."""
    hit = np.zeros((len(THRESHOLDS), len(boxes)), bool)
    if not len(real):
        return hit
    overlap = overlaps(boxes, real)
    free, rows = np.ones((len(THRESHOLDS), len(real)), bool), np.arange(len(THRESHOLDS))
    for i in np.flatnonzero(overlap.max(1) >= THRESHOLDS[0]):
        left = np.where(free, overlap[i], -1)
        best = left.argmax(1)
        hit[:, i] = left[rows, best] >= THRESHOLDS
        free[rows[hit[:, i]], best[hit[:, i]]] = False
    return hit


def _average(hits: NDArray[np.int64], total: int) -> float:
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / total, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(hits))].mean())
