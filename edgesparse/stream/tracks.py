"""Tracks objects from frame to frame of a camera: SORT (Bewley et al., 2016), in NumPy, all cameras of a batch at once.

Every object has a Kalman filter that predicts its box in the next frame; detections are assigned to the objects whose
predicted boxes they overlap most. The filter's noise parameters are those of the authors' implementation. Pairs are
matched in order of overlap, not by the Hungarian method: the two differ only if several objects compete for the same
boxes, and no additional library is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections, having

LEAST_OVERLAP = 0.2
"""Least IoU of a box with the predicted box of its object."""
MOST_MISSED = 30
"""Frames for which an object may be unseen and still keep its number."""
LEAST_OVERLAP_OF_WEAK = 0.5
"""The same for a weak detection (ByteTrack)."""
SURE = 2
"""Number of sightings after which a box counts as an object."""

# An object is a column. Its state: x and y of its center, area, aspect ratio, then the change per frame of the first
# three. Nothing ever relates one measured value to another, so the filter's matrices have no other entries than the
# variances and, for each value that changes, its covariance with its change: no matrix is multiplied or inverted.
_STATE, _VARIANCE, _COVARIANCE = slice(0, 7), slice(7, 14), slice(14, 17)
_CLASS, _NUMBER, _SIGHTINGS, _MISSED, _ROWS = range(17, 22)
_MEASURED, _MOVING = 4, 3
_PROCESS_NOISE = np.array([1, 1, 1, 1, 1e-2, 1e-2, 1e-4])[:, None]
_MEASUREMENT_NOISE = np.array([1.0, 1, 10, 10])[:, None]
_FIRST_VARIANCE = np.array([10.0, 10, 10, 10, 1e4, 1e4, 1e4])[:, None]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_NONE: Ints = np.empty(0, np.int64)


class Tracks:
    """The objects of one camera. An object keeps its class."""

    def __init__(self) -> None:
        self.table: Floats = np.empty((_ROWS, 0))
        """A column per object, in float64, which is exact for their numbers."""
        self.next = 1
        """The number of the next object."""

    def __len__(self) -> int:
        """Number of objects, including those not yet confirmed and those out of sight."""
        return int(self.table.shape[1])


class Seen(NamedTuple):
    """What the next frame of a camera shows.

    `weak` bool [n]: detections whose confidence is too low to count on its own. They are matched last, with objects
    that were seen in the previous frame and have no other box; those without an object are left out (ByteTrack: Zhang
    et al., 2022).
    """

    tracks: Tracks
    detections: Detections
    weak: Bools | None = None


def follow(seen: Sequence[Seen]) -> list[Detections]:
    """Return the detections of a frame of each camera with `track_id`: -1 if an object has not been seen often enough.

    A call of NumPy takes longer than what it does for a dozen boxes, so there is one for all cameras.
    """
    tracks_at = list(accumulate((len(each.tracks) for each in seen), initial=0))
    boxes_at = list(accumulate((len(each.detections) for each in seen), initial=0))
    if not tracks_at[-1] and not boxes_at[-1]:  # as in most frames of most cameras
        return [having(each.detections, track_id=_NONE) for each in seen]
    table = np.concatenate([each.tracks.table for each in seen], axis=1)
    class_id = np.concatenate([each.detections.class_id for each in seen]).astype(np.float64)
    weak = np.concatenate([np.zeros(len(d), bool) if weak is None else weak for _, d, weak in seen])
    measured, corners = _measure(np.concatenate([each.detections.xyxy for each in seen]))
    _predict(table)
    candidates = _candidates((table, tracks_at), (corners, class_id, boxes_at))
    owner = np.full(len(weak), -1)
    if len(candidates.tracks):
        tracks, boxes = _pairs(candidates) if not weak.any() else _in_two_steps(table, candidates, weak)
        owner[boxes] = tracks
    boxes = np.flatnonzero(owner >= 0)
    tracks = owner[boxes]
    _update(table, tracks, measured[:, boxes])
    _give_numbers(table, tracks, np.searchsorted(boxes, boxes_at), seen)
    new = np.flatnonzero((owner < 0) & ~weak)
    numbers = np.append(table[_NUMBER], -1).astype(np.int64)[owner]
    _keep(table, _first(measured[:, new], class_id[new]), (tracks_at, np.searchsorted(new, boxes_at)), seen)
    return [_numbered(each, numbers[start:end]) for each, (start, end) in zip(seen, pairwise(boxes_at), strict=True)]


def _numbered(seen: Seen, numbers: Ints) -> Detections:
    followed = having(seen.detections, track_id=numbers)
    return followed if seen.weak is None or not seen.weak.any() else followed[~seen.weak | (numbers >= 0)]


class _Candidates(NamedTuple):
    """Objects and boxes of the same camera and class that overlap, and their IoU: [n] each, in the objects' order."""

    tracks: Ints
    boxes: Ints
    overlap: Floats

    def where(self, mask: Bools) -> _Candidates:
        return _Candidates(self.tracks[mask], self.boxes[mask], self.overlap[mask])


def _candidates(objects: tuple[Floats, Sequence[int]], detected: tuple[Floats, Floats, Sequence[int]]) -> _Candidates:
    """Return the pairs of LEAST_OVERLAP or more. Objects and detections with where those of each camera start."""
    (table, tracks_at), (corners, class_id, boxes_at) = objects, detected
    expected = _boxes(table)
    # Two boxes overlap if each begins, on both axes, before the other ends. In float32, which takes half of the time:
    # what it misses overlaps by less than a hundredth of a pixel.
    begin = np.concatenate([expected[:2], -expected[2:]]).astype(np.float32)
    end = np.concatenate([corners[2:], -corners[:2]]).astype(np.float32)
    tracks, boxes = [_NONE], [_NONE]
    for (first, last), (start, stop) in zip(pairwise(tracks_at), pairwise(boxes_at), strict=True):
        if first < last and start < stop:
            near = np.logical_and.reduce(begin[:, first:last, None] < end[:, None, start:stop], axis=0)
            near &= table[_CLASS, first:last, None] == class_id[start:stop]
            track, box = np.divmod(np.flatnonzero(near), stop - start)
            tracks.append(track + first)
            boxes.append(box + start)
    track, box = np.concatenate(tracks), np.concatenate(boxes)
    overlap = _overlap(expected.take(track, 1), corners.take(box, 1))
    return _Candidates(track, box, overlap).where(overlap >= LEAST_OVERLAP)


def _pairs(candidates: _Candidates) -> tuple[Ints, Ints]:
    """Match objects with boxes, largest overlap first; each is used once."""
    tracks, boxes, overlap = candidates
    alone = (np.bincount(tracks)[tracks] == 1) & (np.bincount(boxes)[boxes] == 1)
    if alone.all():
        return tracks, boxes
    rest = np.flatnonzero(~alone)
    rest = rest[np.argsort(-overlap[rest], kind="stable")]
    used: tuple[set[int], set[int]] = set(), set()
    chosen = []
    for row, track, box in zip(rest.tolist(), tracks[rest].tolist(), boxes[rest].tolist(), strict=True):
        if track not in used[0] and box not in used[1]:
            used[0].add(track)
            used[1].add(box)
            chosen.append(row)
    alone[chosen] = True
    return tracks[alone], boxes[alone]


def _in_two_steps(table: Floats, candidates: _Candidates, weak: Bools) -> tuple[Ints, Ints]:
    """Pair objects with the detections that count, then those that are left with weak ones."""
    is_weak = weak[candidates.boxes]
    tracks, boxes = _pairs(candidates.where(~is_weak))
    free = (table[_MISSED] == 0) & (table[_NUMBER] >= 0)
    free[tracks] = False
    rest = is_weak & (candidates.overlap >= LEAST_OVERLAP_OF_WEAK) & free[candidates.tracks]
    more = _pairs(candidates.where(rest))
    return np.concatenate([tracks, more[0]]), np.concatenate([boxes, more[1]])


def _predict(table: Floats) -> None:
    state, variance, covariance = table[_STATE], table[_VARIANCE], table[_COVARIANCE]
    state[6, state[2] + state[6] <= 0] = 0.0  # it would shrink to nothing
    state[:_MOVING] += state[_MEASURED:]
    variance[:_MOVING] += covariance
    covariance += variance[_MEASURED:]
    variance[:_MOVING] += covariance
    variance += _PROCESS_NOISE


def _update(table: Floats, tracks: Ints, measured: Floats) -> None:
    """Apply the Kalman correction to those that were seen; the gain of others is 0, which changes nothing."""
    state, variance, covariance = table[_STATE], table[_VARIANCE], table[_COVARIANCE]
    was_seen = np.zeros(table.shape[1])
    was_seen[tracks] = 1.0
    certainty = was_seen / (variance[:_MEASURED] + _MEASUREMENT_NOISE)
    gain, gain_of_change = variance[:_MEASURED] * certainty, covariance * certainty[:_MOVING]
    residual = np.zeros_like(gain)
    residual[:, tracks] = measured - state[:_MEASURED].take(tracks, 1)
    state[:_MEASURED] += gain * residual
    state[_MEASURED:] += gain_of_change * residual[:_MOVING]
    variance[:_MEASURED] -= gain * variance[:_MEASURED]
    variance[_MEASURED:] -= gain_of_change * covariance
    covariance -= gain[:_MOVING] * covariance
    table[_SIGHTINGS] += was_seen
    table[_MISSED] += 1
    table[_MISSED, tracks] = 0


def _first(measured: Floats, class_id: Floats) -> Floats:
    """Return columns of new objects."""
    table = np.zeros((_ROWS, len(class_id)))
    table[:_MEASURED], table[_VARIANCE], table[_CLASS] = measured, _FIRST_VARIANCE, class_id
    table[_NUMBER], table[_SIGHTINGS] = -1, 1
    return table


def _give_numbers(table: Floats, tracks: Ints, starts: Ints, seen: Sequence[Seen]) -> None:
    """Number newly confirmed objects, in the order of their boxes. `starts`: where the tracks of each camera start."""
    fresh = np.flatnonzero((table[_NUMBER, tracks] < 0) & (table[_SIGHTINGS, tracks] >= SURE))
    if len(fresh):
        starts = np.searchsorted(fresh, starts)
        counts = np.diff(starts)
        first = np.array([each.tracks.next for each in seen]) - starts[:-1]
        table[_NUMBER, tracks[fresh]] = np.arange(len(fresh)) + np.repeat(first, counts)
        for each, count in zip(seen, counts.tolist(), strict=True):
            each.tracks.next += count


def _keep(table: Floats, new: Floats, starts: tuple[Sequence[int], Ints], seen: Sequence[Seen]) -> None:
    """Give each camera its objects, without those that are long gone, then its new ones. `starts`: of each camera in
    both tables."""
    kept = table[_MISSED] <= MOST_MISSED
    is_kept = kept.all()
    for each, (first, last), (start, stop) in zip(seen, pairwise(starts[0]), pairwise(starts[1].tolist()), strict=True):
        old = table[:, first:last] if is_kept else table[:, first:last][:, kept[first:last]]
        each.tracks.table = np.concatenate([old, new[:, start:stop]], axis=1) if start < stop else old


def _measure(xyxy: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return center, area and aspect ratio [4, n] of boxes [n, 4], and their corners [4, n]; sides are at least one
    pixel."""
    boxes = np.array(xyxy.T, np.float64, order="C")
    sides = np.maximum(boxes[2:] - boxes[:2], 1.0)
    boxes[2:] = boxes[:2] + sides
    return np.concatenate([boxes[:2] + sides / 2, sides[:1] * sides[1:], sides[:1] / sides[1:]]), boxes


def _boxes(table: Floats) -> Floats:
    """Return the corners [4, n] of states."""
    area, ratio = np.maximum(table[2:4], 1e-6)
    width = np.sqrt(area * ratio)
    half = np.stack([width, area / width]) / 2
    return np.concatenate([table[:2] - half, table[:2] + half])


def _overlap(first: Floats, second: Floats) -> Floats:
    """Return the IoU [n] of every box [4, n] in one list with its partner in the other."""
    sides = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0.0)
    shared = sides[0] * sides[1]
    areas = [(boxes[2] - boxes[0]) * (boxes[3] - boxes[1]) for boxes in (first, second)]
    iou: Floats = shared / (areas[0] + areas[1] - shared)
    return iou
