"""Zones: the parts of a frame in which detections count, and how long objects stay there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Corners = NDArray[np.float32]
"""Of a polygon, [n, 2]."""

OUTSIDE_NS = 1_000_000_000
"""How long an object must be outside before its stay has ended, so that one on the border does not come and go."""


class Zones:
    """Polygons by name, with corners (x, y) relative to the frame's width and height."""

    def __init__(self, polygons: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        self._zones = [(name, *_bounded(np.array(corners, np.float32))) for name, corners in polygons.items()]

    def containing(self, points: Sequence[Sequence[float]]) -> list[tuple[str, ...]]:
        """Return the names of the zones that each of `points`, relative like the corners and in the precision of
        float32, is in or on the border of.

        OpenCV is asked only about points within a zone's bounds, and a rectangle is its bounds: most are decided so.
        """
        zones, inside = self._zones, cv2.pointPolygonTest
        return [
            tuple(
                [
                    name
                    for name, left, top, right, bottom, polygon in zones
                    if left <= x <= right
                    and top <= y <= bottom
                    and (polygon is None or inside(polygon, (x, y), False) >= 0)
                ]
            )
            for x, y in points
        ]


def _bounded(polygon: Corners) -> tuple[float, float, float, float, Corners | None]:
    """Return left, top, right, bottom, and the polygon; None if it is the rectangle between these."""
    (left, top), (right, bottom) = polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()
    along_an_axis = np.roll(polygon, 1, axis=0) == polygon
    is_rectangle = len(polygon) == 4 and bool((along_an_axis.sum(axis=1) == 1).all())
    return left, top, right, bottom, None if is_rectangle else polygon


class Presence:
    """One object's stay in one zone; times are those of frames."""

    __slots__ = ("_began_ns", "_inside_ns")

    def __init__(self, now_ns: int) -> None:
        self._began_ns = self._inside_ns = now_ns

    def see(self, now_ns: int) -> float:
        """Take the next frame that shows the object inside. Returns for how many seconds it has been there."""
        self._inside_ns = now_ns
        return (now_ns - self._began_ns) / 1e9

    def ended(self, now_ns: int) -> bool:
        """Whether the object has been outside for so long that its stay is over."""
        return now_ns - self._inside_ns > OUTSIDE_NS

    @property
    def seconds(self) -> float:
        """How long the object has been inside, up to when it was last seen there."""
        return (self._inside_ns - self._began_ns) / 1e9
