"""Objects that keep their number from frame to frame of a camera: SORT (Bewley et al., 2016), by Similari."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgesparse.errors import BackendUnavailable
from edgesparse.runtime.detections import Detections

LEAST_OVERLAP = 0.2
"""IoU of a box with where its object should be by now."""
MOST_MISSED = 30
"""Frames that an object may be unseen and keep its number."""
SURE = 2
"""Sightings that make an object of a box."""


class Tracks:
    """The objects of one camera. An object keeps its class. Raises BackendUnavailable where Similari is missing."""

    def __init__(self) -> None:
        try:
            import similari
        except ImportError as error:
            raise BackendUnavailable(
                f"run.tracking needs Similari ({error}): pip install 'edgesparse[tracking]'"
            ) from None
        self._box = similari.BoundingBox.new_with_confidence
        overlap = similari.PositionalMetricType.iou(threshold=LEAST_OVERLAP)
        self._sort = similari.Sort(shards=1, bbox_history=1, max_idle_epochs=MOST_MISSED, method=overlap)
        self._numbers: dict[int, int] = {}
        self._classes: set[int] = set()
        self._next = 1

    def follow(self, detections: Detections) -> Detections:
        """The next frame's detections, with `track_id`."""
        numbers = np.full(len(detections), -1, np.int64)
        self._classes.update(detections.class_id.tolist())
        known: set[int] = set()
        for class_id in self._classes:  # also those that are not there: what is unseen grows old
            which = np.flatnonzero(detections.class_id == class_id).tolist()
            for track in self._sort.predict_with_scene(class_id, [self._observed(detections, n) for n in which]):
                known.add(track.id)
                if track.length >= SURE:
                    numbers[track.custom_object_id] = self._number(track.id)
            known.update(track.id for track in self._sort.idle_tracks_with_scene(class_id))
        self._sort.clear_wasted()
        self._numbers = {track: number for track, number in self._numbers.items() if track in known}
        return replace(detections, track_id=numbers)

    def _observed(self, detections: Detections, number: int) -> tuple[Any, int]:
        left, top, right, bottom = detections.xyxy[number].tolist()
        box = self._box(left, top, max(right - left, 1.0), max(bottom - top, 1.0), float(detections.confidence[number]))
        return box.as_xyaah(), number

    def _number(self, track: int) -> int:
        if track not in self._numbers:
            self._numbers[track] = self._next
            self._next += 1
        return self._numbers[track]
