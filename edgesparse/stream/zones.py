"""Zones: the parts of a frame in which detections count, and how long objects stay there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

OUTSIDE_NS = 1_000_000_000
"""How long an object must be outside before its stay has ended, so that one on the border does not come and go."""


class Zones:
    """Polygons by name, with corners (x, y) relative to the frame's width and height."""

    def __init__(self, polygons: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        self._polygons = {name: np.array(corners, np.float32) for name, corners in polygons.items()}

    def containing(self, points: Sequence[tuple[float, float]]) -> list[tuple[str, ...]]:
        """Return the names of the zones that each of `points`, relative like the corners, is in or on the border of."""
        zones, inside = self._polygons.items(), cv2.pointPolygonTest
        return [tuple([name for name, corners in zones if inside(corners, at, False) >= 0]) for at in points]


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
