"""What a recipe says of a camera: where its frames come from, what is asked of it, what counts in them and where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from edgesparse.values import Section, Unit


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError("a name of a-z, 0-9 and -")
    return name


def _frame_size(value: object) -> object:
    """Width and height of `1280x720`; a list stays as it is."""
    found = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", value) if isinstance(value, str) else None
    if found is None and not isinstance(value, list | tuple):
        raise ValueError("width and height, as 1280x720")
    return [int(found[1]), int(found[2])] if found else value


_Side = Annotated[int, Field(ge=16, le=16384)]
FrameSize = Annotated[tuple[_Side, _Side], Strict(False), BeforeValidator(_frame_size)]
"""Width and height in pixels, as `1280x720` or [1280, 720]."""

Rate = Annotated[float, Field(gt=0, le=1000)]
"""Frames a second."""

Point = tuple[float, float]


def _polygon(corners: tuple[Point, ...]) -> tuple[Point, ...]:
    if len(corners) < 3:
        raise ValueError("at least three corners, as [[0, 0.5], [1, 0.5], [1, 1]]")
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    if any(_cross(*one, *other) for one, other in combinations(sides, 2)):
        raise ValueError("a polygon whose sides do not cross")
    if abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in sides)) < 1e-6:
        raise ValueError("a polygon with an area")
    return corners


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments ab and cd cross in a point inside both."""

    def turn(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0


_Corner = Annotated[tuple[Unit, Unit], Strict(False)]
Zone = Annotated[tuple[_Corner, ...], Strict(False), AfterValidator(_polygon)]
"""A polygon; each corner x, y in shares of the frame's width and height, from its top left."""

Source = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v)]
"""What open_source takes; a whole number is a camera."""

Confidences = Unit | dict[str, Unit]
"""Least confidence; or one a class by name, `default` for the others."""


class Camera(Section):
    name: Annotated[str, AfterValidator(_name)]
    source: Source
    size: FrameSize | None = None
    """Asked of a camera."""
    fps: Rate | None = None
    """Asked of a camera."""
    rate: Rate | None = None
    """Most frames a second that are detected in; left out: as many as come."""
    conf: Confidences | None = None
    """Left out: the run's."""
    classes: tuple[str, ...] | None = None
    """Left out: the run's."""
    zones: dict[Annotated[str, AfterValidator(_name)], Zone] = Field(default_factory=dict)
    """Where a box's foot, the middle of its lower edge, must be to count; left out: anywhere."""
    frozen: Annotated[float, Field(ge=0, le=3600)] = 1.5
    """Seconds after which an image that did not change by a single bit is an old one; 0: never."""

    def opens_like(self, other: Camera) -> bool:
        """Whether the same open source serves both."""
        return all(getattr(self, key) == getattr(other, key) for key in ("name", "source", "size", "fps", "frozen"))


ONLY = "camera"
"""The name of a camera that has none of its own."""


def of_sources(sources: Sequence[str]) -> dict[str, object]:
    """What a recipe's `run:` would say for these: nothing, a source, or cameras named camera-0 after their numbers,
    else camera-1, camera-2 ... in order."""
    if len(sources) < 2:
        return {"source": sources[0]} if sources else {}
    by_number = all(map(str.isdecimal, sources)) and len(set(sources)) == len(sources)
    numbers = sources if by_number else range(1, 1 + len(sources))
    return {"cameras": [{"name": f"{ONLY}-{n}", "source": source} for n, source in zip(numbers, sources, strict=True)]}
