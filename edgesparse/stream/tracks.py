"""Tracks objects from frame to frame of a camera: SORT (Bewley et al., 2016), in NumPy.

Every object has a Kalman filter that predicts its box in the next frame; detections are assigned to the objects whose
predicted boxes they overlap most. The filter's noise parameters are those of the authors' implementation. Pairs are
matched in order of overlap, not by the Hungarian method: the two differ only if several objects compete for the same
boxes, and no additional library is needed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections

LEAST_OVERLAP = 0.2
"""Least IoU of a box with the predicted box of its object."""
MOST_MISSED = 30
"""Frames for which an object may be unseen and still keep its number."""
LEAST_OVERLAP_OF_WEAK = 0.5
"""The same for a weak detection (ByteTrack)."""
SURE = 2
"""Number of sightings after which a box counts as an object."""

# The state of an object: x and y of its center, area, aspect ratio, then the change per frame of the first three.
_STATES, _MEASURED, _MOVING = 7, 4, 3
# Variances. Nothing ever relates one measured value to another, so the filter's matrices have no other entries than the
# variances and, for each value that changes, its covariance with its change: no matrix is multiplied or inverted.
_PROCESS_NOISE = np.array([1, 1, 1, 1, 1e-2, 1e-2, 1e-4])
_MEASUREMENT_NOISE = np.array([1.0, 1, 10, 10])
_FIRST_VARIANCE = np.array([10.0, 10, 10, 10, 1e4, 1e4, 1e4])

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NONE: Ints = np.empty(0, np.int64)


class Tracks:
    """The objects of one camera. An object keeps its class."""

    def __init__(self) -> None:
        self._state: Floats = np.empty((0, _STATES))
        self._variance: Floats = np.empty((0, _STATES))
        self._covariance: Floats = np.empty((0, _MOVING))
        """Of the first states with their changes."""
        self._class_id: Ints = np.empty(0, np.int64)
        self._number: Ints = np.empty(0, np.int64)
        self._sightings: Ints = np.empty(0, np.int64)
        self._missed: Ints = np.empty(0, np.int64)
        self._next = 1

    def __len__(self) -> int:
        """Number of objects, including those not yet confirmed and those out of sight."""
        return len(self._number)

    def follow(self, detections: Detections, weak: NDArray[np.bool_] | None = None) -> Detections:
        """Return the next frame's detections with `track_id`: -1 if an object has not been seen often enough.

        `weak` bool [n]: detections whose confidence is too low to count on its own. They are matched last, with
        objects that were seen in the previous frame and have no other box; those without an object are left out
        (ByteTrack: Zhang et al., 2022).
        """
        if not len(self) and not len(detections):  # as in most frames of most cameras
            return replace(detections, track_id=_NONE)
        measured, boxes_seen = _measure(detections.xyxy)
        self._predict()
        overlap = _overlap(_boxes(self._state), boxes_seen)
        overlap[self._class_id[:, None] != detections.class_id] = 0.0
        if weak is None or not weak.any():
            tracks, boxes = _pairs(overlap)
        else:
            tracks, boxes = self._in_two_steps(overlap, weak)
        self._missed += 1
        self._update(tracks, measured[boxes])
        able = np.ones(len(detections), bool) if weak is None else ~weak
        able[boxes] = False
        new = np.flatnonzero(able)
        owner = np.full(len(detections), -1)
        owner[boxes] = tracks
        owner[new] = len(self) + np.arange(len(new))
        self._add(measured[new], detections.class_id[new])
        self._give_numbers(owner[owner >= 0])
        numbers = np.append(self._number, -1)[owner]  # the last one for those without an object
        self._keep(self._missed <= MOST_MISSED)
        followed = replace(detections, track_id=numbers)
        return followed if weak is None or not weak.any() else followed[~weak | (numbers >= 0)]

    def _in_two_steps(self, overlap: Floats, weak: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Pair objects with the detections that count, then those that are left with weak ones."""
        tracks, boxes = _pairs(np.where(weak, 0.0, overlap))
        rest = np.where(weak & (overlap >= LEAST_OVERLAP_OF_WEAK), overlap, 0.0)
        rest[tracks] = 0.0
        rest[(self._missed > 0) | (self._number < 0)] = 0.0
        more = _pairs(rest)
        return np.concatenate([tracks, more[0]]), np.concatenate([boxes, more[1]])

    def _predict(self) -> None:
        state, variance, covariance = self._state, self._variance, self._covariance
        state[state[:, 2] + state[:, 6] <= 0, 6] = 0.0  # it would shrink to nothing
        state[:, :_MOVING] += state[:, _MEASURED:]
        variance[:, :_MOVING] += covariance
        covariance += variance[:, _MEASURED:]
        variance[:, :_MOVING] += covariance
        variance += _PROCESS_NOISE

    def _update(self, tracks: Ints, measured: Floats) -> None:
        """Apply the Kalman correction."""
        variance, covariance = self._variance[tracks], self._covariance[tracks]
        certainty = 1.0 / (variance[:, :_MEASURED] + _MEASUREMENT_NOISE)
        gain, gain_of_change = variance[:, :_MEASURED] * certainty, covariance * certainty[:, :_MOVING]
        residual = measured - self._state[tracks, :_MEASURED]
        self._state[tracks] += np.concatenate([gain * residual, gain_of_change * residual[:, :_MOVING]], axis=1)
        variance[:, :_MEASURED] -= gain * variance[:, :_MEASURED]
        variance[:, _MEASURED:] -= gain_of_change * covariance
        self._variance[tracks], self._covariance[tracks] = variance, covariance - gain[:, :_MOVING] * covariance
        self._missed[tracks] = 0
        self._sightings[tracks] += 1

    def _add(self, measured: Floats, class_id: Ints) -> None:
        if (count := len(measured)) == 0:
            return
        state = np.concatenate([measured, np.zeros((count, _STATES - _MEASURED))], axis=1)
        self._state = np.concatenate([self._state, state])
        self._variance = np.concatenate([self._variance, np.broadcast_to(_FIRST_VARIANCE, (count, _STATES))])
        self._covariance = np.concatenate([self._covariance, np.zeros((count, _MOVING))])
        self._class_id = np.concatenate([self._class_id, class_id])
        self._number = np.concatenate([self._number, np.full(count, -1)])
        self._sightings = np.concatenate([self._sightings, np.ones(count, np.int64)])
        self._missed = np.concatenate([self._missed, np.zeros(count, np.int64)])

    def _give_numbers(self, tracks: Ints) -> None:
        """Number newly confirmed objects, in the order of their boxes."""
        fresh = tracks[(self._number[tracks] < 0) & (self._sightings[tracks] >= SURE)]
        self._number[fresh] = self._next + np.arange(len(fresh))
        self._next += len(fresh)

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        if not keep.all():
            self._state, self._variance = self._state[keep], self._variance[keep]
            self._covariance = self._covariance[keep]
            self._class_id, self._number = self._class_id[keep], self._number[keep]
            self._sightings, self._missed = self._sightings[keep], self._missed[keep]


def _measure(xyxy: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return center, area and aspect ratio [n, 4] of boxes, and their corners [n, 4]; sides are at least one pixel."""
    boxes = xyxy.astype(np.float64)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    boxes[:, 2:] = boxes[:, :2] + sides
    width, height = sides[:, :1], sides[:, 1:]
    return np.concatenate([boxes[:, :2] + sides / 2, width * height, width / height], axis=1), boxes


def _boxes(states: Floats) -> Floats:
    """Return the corners [n, 4] of states."""
    positive = np.maximum(states[:, 2:4], 1e-6)
    area, ratio = positive[:, :1], positive[:, 1:]
    width = np.sqrt(area * ratio)
    half = np.concatenate([width, area / width], axis=1) / 2
    return np.concatenate([states[:, :2] - half, states[:, :2] + half], axis=1)


def _overlap(first: Floats, second: Floats) -> Floats:
    """Return the IoU [n, m] of every box in one list with every box in the other."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    sides = np.maximum(np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner, 0.0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    iou: Floats = shared / (areas[0][:, None] + areas[1] - shared)
    return iou


def _pairs(overlap: Floats) -> tuple[Ints, Ints]:
    """Match rows with columns, largest overlap first; each is used once."""
    rows, columns = np.nonzero(overlap >= LEAST_OVERLAP)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    used: tuple[set[int], set[int]] = set(), set()
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used[0] and column not in used[1]:
            used[0].add(row)
            used[1].add(column)
            pairs.append((row, column))
    chosen = np.array(pairs, np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
