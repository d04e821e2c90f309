"""The numbers of objects against a plain tracker that takes one camera, one object and one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.runtime.detections import Detections
from edgesparse.stream.tracks import LEAST_OVERLAP, LEAST_OVERLAP_OF_WEAK, MOST_MISSED, Seen, Tracks, follow

CONF = 0.4
NOISE = (1, 1, 1, 1, 1e-2, 1e-2, 1e-4)
Box = Sequence[float]


@dataclass
class Object:
    class_id: int
    state: list[float]
    variance: list[float] = field(default_factory=lambda: [10.0, 10, 10, 10, 1e4, 1e4, 1e4])
    covariance: list[float] = field(default_factory=lambda: [0.0] * 3)
    number: int = -1
    sightings: int = 1
    missed: int = 0

    def predict(self) -> Box:
        state, variance, covariance = self.state, self.variance, self.covariance
        if state[2] + state[6] <= 0:
            state[6] = 0.0
        for i in range(3):
            state[i] += state[i + 4]
            variance[i] += covariance[i]
            covariance[i] += variance[i + 4]
            variance[i] += covariance[i]
        self.variance = [value + noise for value, noise in zip(variance, NOISE, strict=True)]
        x, y, area, ratio = state[0], state[1], max(state[2], 1e-6), max(state[3], 1e-6)
        width = math.sqrt(area * ratio)
        height = area / width
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def correct(self, box: Box) -> None:
        for i, value in enumerate(measure(box)):
            certainty = 1.0 / (self.variance[i] + (1, 1, 10, 10)[i])
            gain, residual = self.variance[i] * certainty, value - self.state[i]
            self.state[i] += gain * residual
            self.variance[i] -= gain * self.variance[i]
            if i < 3:
                change = self.covariance[i] * certainty
                self.state[i + 4] += change * residual
                self.variance[i + 4] -= change * self.covariance[i]
                self.covariance[i] -= gain * self.covariance[i]
        self.missed, self.sightings = 0, self.sightings + 1


def measure(box: Box) -> list[float]:
    width, height = box[2] - box[0], box[3] - box[1]
    return [box[0] + width / 2, box[1] + height / 2, width * height, width / height]


def overlap(first: Box, second: Box) -> float:
    width = max(min(first[2], second[2]) - max(first[0], second[0]), 0.0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]), 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (areas[0] + areas[1] - width * height)


class Plain:
    def __init__(self) -> None:
        self.objects: list[Object] = []
        self.next = 1

    def follow(self, detections: Detections) -> list[int]:
        boxes = [(x, y, x + max(r - x, 1.0), y + max(b - y, 1.0)) for x, y, r, b in detections.xyxy.tolist()]
        classes, weak = detections.class_id.tolist(), (detections.confidence < CONF).tolist()
        expected = [each.predict() for each in self.objects]
        pairs = [
            (overlap(box, boxes[column]), row, column)
            for row, box in enumerate(expected)
            for column in range(len(boxes))
            if self.objects[row].class_id == classes[column]
        ]
        pairs = sorted((pair for pair in pairs if pair[0] >= LEAST_OVERLAP), key=lambda pair: -pair[0])
        owner: dict[int, Object] = {}
        for is_weak in (False, True):
            for share, row, column in pairs:
                each = self.objects[row]
                able = not is_weak or (each.missed == 0 and each.number > 0 and share >= LEAST_OVERLAP_OF_WEAK)
                free = column not in owner and not any(each is other for other in owner.values())
                if weak[column] == is_weak and able and free:
                    owner[column] = each
        for each in self.objects:
            each.missed += 1
        for column, each in owner.items():
            each.correct(boxes[column])
        for column in range(len(boxes)):
            if column not in owner and not weak[column]:
                owner[column] = Object(classes[column], measure(boxes[column]) + [0.0] * 3)
                self.objects.append(owner[column])
            elif column in owner and owner[column].number < 0:
                owner[column].number, self.next = self.next, self.next + 1
        self.objects = [each for each in self.objects if each.missed <= MOST_MISSED]
        numbers = [owner[column].number if column in owner else -1 for column in range(len(boxes))]
        return [number for number, left_out in zip(numbers, weak, strict=True) if number >= 0 or not left_out]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_cameras_of_a_batch_get_the_numbers_that_each_gets_alone(seed: int, cameras: int) -> None:
    """Objects that move among others, hide, fade and come back; cameras that skip batches or see nothing."""
    random = np.random.default_rng(seed)
    tracks, plain = [Tracks() for _ in range(cameras)], [Plain() for _ in range(cameras)]
    counts = random.integers(0, 9, cameras)
    starts = [random.uniform(0, 150, (count, 2)) for count in counts]
    speeds, sizes = ([random.uniform(*of, (count, 2)) for count in counts] for of in ((-4, 4), (5, 80)))
    for step in range(60):
        who = random.permutation(cameras)[: random.integers(1, cameras + 1)].tolist()
        frames = []
        for camera in who:
            seen = np.flatnonzero(random.random(counts[camera]) < (0.0 if step in range(20, 55) else 0.85))
            corner = np.round(starts[camera][seen] + step * speeds[camera][seen])  # some overlap equally
            boxes = np.concatenate([corner, corner + sizes[camera][seen]], axis=1).astype(np.float32)
            frames.append(Detections(boxes, random.random(len(seen), np.float32), seen % 2))
        together = follow([Seen(tracks[c], f, f.confidence < CONF) for c, f in zip(who, frames, strict=True)])
        for camera, frame, followed in zip(who, frames, together, strict=True):
            assert followed.track_id is not None and followed.track_id.tolist() == plain[camera].follow(frame)
