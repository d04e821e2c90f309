"""Lines: where objects that cross are counted, each once and by direction."""

from __future__ import annotations

from collections.abc import Sequence

from edgesparse.runtime.counts import Direction, Polygon

MARGIN = 0.05
"""How far beyond a line an object is clearly on that side, as a share of the longer side of its box."""
LEAST_MARGIN = 0.004
"""The least such distance, as a share of the frame's height."""
_ROUNDING = 1e-6
Located = tuple[float, float]
"""A point's distance from a line in pixels, positive to its right, and where along the line it is."""


class PlacedLine:
    """A line in a frame of a certain size, in pixels."""

    def __init__(self, start: tuple[float, float], step: tuple[float, float]) -> None:
        (self._x, self._y), (self._dx, self._dy) = start, step
        self._square = self._dx * self._dx + self._dy * self._dy
        self._length = self._square**0.5

    @classmethod
    def of(cls, points: Polygon, width: int, height: int) -> PlacedLine:
        (x1, y1), (x2, y2) = points
        return cls((x1 * width, y1 * height), ((x2 - x1) * width, (y2 - y1) * height))

    def sides(self, xs: Sequence[float], ys: Sequence[float], margins: Sequence[float]) -> list[int]:
        """Return the side that each point x, y is clearly on, its margin in pixels or more from the line: 1 right, -1
        left, 0 if it is closer.
        """
        from_x, from_y, dx, dy, length = self._x, self._y, self._dx, self._dy, self._length
        return [
            1 if (distance := (dx * (y - from_y) - dy * (x - from_x)) / length) >= margin else -(-distance >= margin)
            for x, y, margin in zip(xs, ys, margins, strict=True)
        ]

    def locate(self, x: float, y: float) -> Located:
        """Return a point's distance from the line in pixels, positive to its right, and where along the line it is, 0
        at the first point and 1 at the second."""
        dx, dy, x, y = self._dx, self._dy, x - self._x, y - self._y
        return (dx * y - dy * x) / self._length, (dx * x + dy * y) / self._square


class Passage:
    """One object's way past one line.

    A crossing counts once the object is clearly on the other side, and if its way from where it last was clearly on the
    first side led through the line, not around its ends. So an object that trembles on the line counts once or not at
    all; one that was out of sight is assumed to have moved straight.
    """

    __slots__ = ("_at_line", "_nearly", "_net", "_side")

    def __init__(self) -> None:
        self._side = 0
        """The side that the object was last clearly on: 1 right, -1 left, 0 not known yet."""
        self._nearly = 0
        """The side that it was last on, however close."""
        self._at_line = False
        """Whether it has just been on the line itself, within its ends."""
        self._net = 0
        """Ways through the line to the right less those to the left, since it was clearly on a side."""

    def step(self, before: Located, now: Located, margin: float) -> Direction | None:
        """Return the direction if the object's next position completes a crossing.

        `before` and `now`: its last position and the next one, as `PlacedLine.locate` returns them; `before` of the
        first step is of no importance. Steps may be left out while it stays clearly on the side that it was clearly on
        before. `margin`: the distance in pixels from which on it is clearly on a side.
        """
        distance, share = now
        side = (distance > 0) - (distance < 0)
        if side == 0:
            self._at_line |= _within(share)
        else:
            if side == -self._nearly and self._leads_through(before, now):
                self._net += side
            self._nearly, self._at_line = side, False
        if side == 0 or abs(distance) < margin:
            return None
        net, self._net = self._net, 0
        former, self._side = self._side, side
        if former == -side and net * side > 0:
            return "in" if side > 0 else "out"
        return None

    def _leads_through(self, before: Located, now: Located) -> bool:
        (distance_before, share_before), (distance, share) = before, now
        if distance_before == 0:
            return self._at_line
        return _within(share_before + (share - share_before) * distance_before / (distance_before - distance))


def _within(share: float) -> bool:
    return -_ROUNDING <= share <= 1 + _ROUNDING
