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

MOST_KNOWN = 1024
"""Combinations of zones whose names are kept."""


class Zones:
    """Polygons by name, with corners (x, y) relative to the frame's width and height."""

    def __init__(self, polygons: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        self._zones = [(name, *_bounded(np.array(corners, np.float32))) for name, corners in polygons.items()]
        self._known: dict[tuple[bool, ...], tuple[str, ...]] = {}
        """The names of zones, by which of all zones these are."""

    def containing(self, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[str, ...]]:
        """Return the names of the zones that each point x, y, relative like the corners and in the precision of
        float32, is in or on the border of.

        OpenCV is asked only about points within a zone's bounds, and a rectangle is its bounds: most are decided so.
        """
        if not self._zones:
            return [()] * len(xs)
        test, known = cv2.pointPolygonTest, self._known
        columns = [
            [
                left <= x <= right and top <= y <= bottom and (polygon is None or test(polygon, (x, y), False) >= 0)
                for x, y in zip(xs, ys, strict=True)
            ]
            for _, left, top, right, bottom, polygon in self._zones
        ]
        combinations = zip(*columns, strict=True)
        return [known[inside] if inside in known else self._named(inside) for inside in combinations]

    def _named(self, inside: tuple[bool, ...]) -> tuple[str, ...]:
        names = tuple(zone[0] for zone, is_inside in zip(self._zones, inside, strict=True) if is_inside)
        if len(self._known) < MOST_KNOWN:
            self._known[inside] = names
        return names


def _bounded(polygon: Corners) -> tuple[float, float, float, float, Corners | None]:
    """Return left, top, right, bottom, and the polygon; None if it is the rectangle between these."""
    (left, top), (right, bottom) = polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()
    along_an_axis = np.roll(polygon, 1, axis=0) == polygon
    is_rectangle = len(polygon) == 4 and bool((along_an_axis.sum(axis=1) == 1).all())
    return left, top, right, bottom, None if is_rectangle else polygon


class Presence:
    """One object's stay in one zone; times are those of frames."""

    __slots__ = ("_inside_ns", "began_ns")

    def __init__(self, now_ns: int) -> None:
        self.began_ns = self._inside_ns = now_ns

    def see(self, now_ns: int) -> None:
        """Take the next frame that shows the object inside; those before it may be left out."""
        self._inside_ns = now_ns

    def ended(self, now_ns: int) -> bool:
        """Whether the object has been outside for so long that its stay is over."""
        return now_ns - self._inside_ns > OUTSIDE_NS

    @property
    def seconds(self) -> float:
        """How long the object has been inside, up to when it was last seen there."""
        return (self._inside_ns - self.began_ns) / 1e9
