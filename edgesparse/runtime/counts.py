"""What a camera has counted: objects that crossed its lines, and their stays in its zones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Direction = Literal["in", "out"]
DIRECTIONS: tuple[Direction, Direction] = ("in", "out")
Polygon = tuple[tuple[float, float], ...]
"""Points x, y as shares of the frame's width and height."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """An object that crossed a line; `in` is from its left to its right."""

    line: str
    direction: Direction
    track_id: int
    class_id: int


@dataclass(frozen=True, slots=True)
class Stay:
    """An object's stay in a zone. `seconds`: how long it has lasted."""

    zone: str
    track_id: int
    class_id: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Counts:
    """A camera's lines and zones, and what was counted there up to a frame.

    `tracked`: whether objects are tracked; without that nothing is counted. `crossed`: number of crossings per line,
    direction and class id. `entered`: number of stays that began, per zone and class id. `left`: number of stays that
    ended, and their seconds in total.

    Of this frame: `crossings`, each with `line`, `direction`, `track_id` and `class_id`; `entries` and `exits`, stays
    that began and ended, each with `zone`, `track_id`, `class_id` and `seconds`.
    """

    lines: Mapping[str, Polygon] = field(default_factory=dict)
    zones: Mapping[str, Polygon] = field(default_factory=dict)
    tracked: bool = False
    crossed: Mapping[tuple[str, Direction, int], int] = field(default_factory=dict)
    entered: Mapping[tuple[str, int], int] = field(default_factory=dict)
    left: Mapping[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    crossings: tuple[Crossing, ...] = ()
    entries: tuple[Stay, ...] = ()
    exits: tuple[Stay, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether something was counted in this frame."""
        return bool(self.crossings or self.entries or self.exits)

    def after(self, crossings: tuple[Crossing, ...], entries: tuple[Stay, ...], exits: tuple[Stay, ...]) -> Counts:
        """Return the counts after a further frame, in which this happened."""
        if not (crossings or entries or exits):
            return replace(self, crossings=(), entries=(), exits=()) if self.changed else self
        crossed, entered, left = dict(self.crossed), dict(self.entered), dict(self.left)
        for crossing in crossings:
            passed = crossing.line, crossing.direction, crossing.class_id
            crossed[passed] = crossed.get(passed, 0) + 1
        for stay in entries:
            entered[stay.zone, stay.class_id] = entered.get((stay.zone, stay.class_id), 0) + 1
        for stay in exits:
            count, seconds = left.get((stay.zone, stay.class_id), (0, 0.0))
            left[stay.zone, stay.class_id] = count + 1, seconds + stay.seconds
        return Counts(self.lines, self.zones, self.tracked, crossed, entered, left, crossings, entries, exits)

    def crossings_of(self, line: str, direction: Direction) -> dict[int, int]:
        """Return the number of crossings per class id."""
        return dict(
            sorted((id_, n) for (name, way, id_), n in self.crossed.items() if name == line and way == direction)
        )

    def entries_of(self, zone: str) -> dict[int, int]:
        """Return the number of stays that began, per class id."""
        return dict(sorted((class_id, count) for (name, class_id), count in self.entered.items() if name == zone))

    def exits_of(self, zone: str) -> dict[int, tuple[int, float]]:
        """Return the number of stays that ended, and their seconds in total, per class id."""
        return dict(sorted((class_id, ended) for (name, class_id), ended in self.left.items() if name == zone))
