"""One frame's detections from those in its parts: each object once."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.masks import union
from edgesparse.runtime.nms import nms
from edgesparse.runtime.rotated import overlap_in, suppress
from edgesparse.tiles import Part

SAME = 0.5
"""Overlap (intersection over union, where both parts see) from which two boxes are one object."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """The settings of NMS."""

    iou: float
    max_det: int
    agnostic: bool


def merged(parts: Sequence[Part], seen: Sequence[Detections], limits: Limits) -> Detections:
    """Return the detections in a frame from those in its parts, each in its part's own pixels. The first part is the
    whole frame.

    Two boxes of a class in different parts are one object if they agree where both parts see: clipped to the
    intersection of the parts, their intersection over union exceeds SAME. So the piece of an object that a tile's edge
    cuts belongs to the object's box in the whole frame and to its piece in the next tile, but a small object in front
    of a large one stays apart from it, unlike with the intersection over the smaller area that SAHI compares (Akyon et
    al., Slicing Aided Hyper Inference, 2022). Of each part, an object has at most one box. The result is the most
    confident box of a part that sees all of the object, otherwise the union, as in SAHI's non-maximum merging; its
    confidence is the highest. Masks are united likewise; of keypoints each is the most confident one, and of rotated
    boxes, which have no union, the largest counts. NMS follows.
    """
    whole = parts[0]
    moved = [_moved(each, part, whole) for each, part in zip(seen, parts, strict=True)]
    filled = [each for each in moved if len(each)]
    if len(filled) < 2:
        return (filled or moved)[0]
    every = _joined(filled)
    part_of = np.repeat(np.arange(len(parts)), [len(each) for each in moved])
    views = np.array([(p.left, p.top, p.left + p.width, p.top + p.height) for p in parts], np.float64)[part_of]
    groups = _groups(every, part_of, views, limits.agnostic)
    result = _one_each(every, groups, views)
    if result.rotated is None:
        return result[nms(result.xyxy, result.confidence, result.class_id, limits.iou, limits.max_det, limits.agnostic)]
    values = result.rotated, result.confidence, result.class_id
    return result[suppress(*values, limits.iou, limits.max_det, limits.agnostic)]


def _moved(detections: Detections, part: Part, whole: Part) -> Detections:
    """Convert detections from a part's pixels to the frame's."""
    if part == whole or not len(detections):
        return detections
    shift = np.array([part.left, part.top] * 2, np.float32)
    masks, points, rotated = detections.masks, detections.keypoints, detections.rotated
    return replace(
        detections,
        xyxy=detections.xyxy + shift,
        masks=masks and tuple(mask.placed(part.top, part.left, whole.height, whole.width) for mask in masks),
        keypoints=None if points is None else points + np.append(shift[:2], np.float32(0)),
        rotated=None if rotated is None else rotated + np.append(shift[:2], np.zeros(3, np.float32)),
    )


def _joined(seen: Sequence[Detections]) -> Detections:
    """All detections in one, in the order of the parts."""
    first = seen[0]
    keypoints = [each.keypoints for each in seen if each.keypoints is not None]
    rotated = [each.rotated for each in seen if each.rotated is not None]
    return replace(
        first,
        xyxy=np.concatenate([each.xyxy for each in seen]),
        confidence=np.concatenate([each.confidence for each in seen]),
        class_id=np.concatenate([each.class_id for each in seen]),
        masks=None if first.masks is None else tuple(mask for each in seen for mask in each.masks or ()),
        keypoints=np.concatenate(keypoints) if keypoints else None,
        rotated=np.concatenate(rotated) if rotated else None,
    )


def _groups(every: Detections, part_of: NDArray[np.int64], views: Floats, agnostic: bool) -> list[list[int]]:
    """The indices of each object's boxes, the most confident object first."""
    partners = defaultdict[int, list[tuple[float, int]]](list)
    labels = np.zeros_like(every.class_id) if agnostic else every.class_id
    for label in np.unique(labels).tolist():
        index = np.flatnonzero(labels == label)
        if len(index) > 1:
            share = _agreement(every, index, part_of, views)
            for row, column in zip(*np.nonzero(share > SAME), strict=True):
                partners[int(index[row])].append((float(share[row, column]), int(index[column])))
    groups, taken = [], np.zeros(len(every), np.bool_)
    for first in np.argsort(-every.confidence, kind="stable").tolist():
        if taken[first]:
            continue
        group, parts, waiting = [first], {int(part_of[first])}, deque([first])
        taken[first] = True
        while waiting:
            for _, other in sorted(partners[waiting.popleft()], reverse=True):
                if not taken[other] and int(part_of[other]) not in parts:
                    taken[other] = True
                    parts.add(int(part_of[other]))
                    group.append(other)
                    waiting.append(other)
        groups.append(group)
    return groups


def _agreement(every: Detections, index: NDArray[np.int64], part_of: NDArray[np.int64], views: Floats) -> Floats:
    """Intersection over union [n, n] of boxes clipped to what both parts see; 0 for boxes of one part."""
    view, boxes = views[index].T, every.xyxy[index].T.astype(np.float64)
    low = np.maximum(view[:2, :, None], view[:2, None])
    high = np.minimum(view[2:, :, None], view[2:, None])
    corner, end = np.maximum(boxes[:2, :, None], low), np.minimum(boxes[2:, :, None], high)
    area = np.maximum(end - corner, 0).prod(axis=0)
    shared_low = np.maximum(corner, boxes[:2, None])
    shared_high = np.minimum(end, boxes[2:, None])
    shared = np.maximum(shared_high - shared_low, 0).prod(axis=0)
    together = area + area.T - shared
    share: Floats = np.divide(shared, together, out=np.zeros_like(shared), where=together > 0)
    share[part_of[index][:, None] == part_of[index]] = 0
    if every.rotated is None:
        return share
    exact = np.zeros_like(share)
    for row, column in zip(*np.nonzero(share), strict=True):
        seen = low[0, row, column], low[1, row, column], high[0, row, column], high[1, row, column]
        exact[row, column] = overlap_in(every.rotated[index[row]], every.rotated[index[column]], seen)
    return exact


def _one_each(every: Detections, groups: list[list[int]], views: Floats) -> Detections:
    """One detection per group."""
    first = [group[0] for group in groups]
    chosen, united = list(first), every.xyxy[first].copy()
    masks, keypoints = list(every.masks or ()), every.keypoints
    points = None if keypoints is None else keypoints[first].copy()
    for i, group in enumerate(groups):
        if len(group) == 1:
            continue
        boxes = every.xyxy[group]
        around = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        inside = (views[group, :2] <= around[:2]) & (around[2:] <= views[group, 2:])
        full = [group[j] for j in np.flatnonzero(inside.all(axis=1))]
        if full or every.rotated is not None:
            sizes = every.xyxy[group, 2:] - every.xyxy[group, :2]
            best = max(full, key=lambda j: every.confidence[j]) if full else group[int(np.argmax(sizes.prod(axis=1)))]
            chosen[i], united[i] = best, every.xyxy[best]
            if points is not None and keypoints is not None:
                points[i] = keypoints[best]
            continue
        united[i] = around
        if masks:
            masks[first[i]] = union([masks[index] for index in group])
        if points is not None and keypoints is not None:
            best_of = keypoints[group, :, 2].argmax(axis=0)
            points[i] = keypoints[group][best_of, np.arange(points.shape[1])]
    return replace(
        every[chosen],
        xyxy=united,
        confidence=every.confidence[first],
        class_id=every.class_id[first],
        masks=None if every.masks is None else tuple(masks[index] for index in chosen),
        keypoints=points,
    )
