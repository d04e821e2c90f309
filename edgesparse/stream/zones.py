"""Zones: the parts of a frame in which detections count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np

from edgesparse.runtime.detections import Detections


class Zones:
    """Polygons by name, with corners (x, y) relative to the frame's width and height."""

    def __init__(self, polygons: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        self._polygons = {name: np.array(corners, np.float32) for name, corners in polygons.items()}

    def inside(self, detections: Detections, width: int, height: int) -> Detections:
        """Return the detections whose bottom center is inside a zone or on its border, with its name."""
        boxes = detections.xyxy
        feet = np.stack([(boxes[:, 0] + boxes[:, 2]) / (2 * width), boxes[:, 3] / height], axis=1)
        zones = [self._zones_at(float(x), float(y)) for x, y in feet]
        kept = detections[np.array([bool(names) for names in zones], bool)]
        return replace(kept, zones=tuple(names for names in zones if names))

    def _zones_at(self, x: float, y: float) -> tuple[str, ...]:
        return tuple(
            name for name, corners in self._polygons.items() if cv2.pointPolygonTest(corners, (x, y), False) >= 0
        )
