"""A camera in a recipe: its source, its mode, which detections count in which zones, and its lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from edgesparse.redaction import remember_address
from edgesparse.tiles import TilesSetting
from edgesparse.values import Section, Unit, restore_bytes


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError("a name of a-z, 0-9 and -")
    return name


def _frame_size(value: object) -> object:
    """Convert `1280x720` to width and height; return a list unchanged."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", value) if isinstance(value, str) else None
    if match is None and not isinstance(value, list | tuple):
        raise ValueError("width and height, as 1280x720")
    return [int(match[1]), int(match[2])] if match else value


_Side = Annotated[int, Field(ge=16, le=16384)]
FrameSize = Annotated[tuple[_Side, _Side], Strict(False), BeforeValidator(_frame_size)]
"""Width and height in pixels, as `1280x720` or [1280, 720]."""

Rate = Annotated[float, Field(gt=0, le=1000)]
"""Frames per second."""

MOST_CORNERS = 100
"""Of a zone: whether its sides cross takes time that grows with the square of their number."""
MOST_ZONES = 64
"""Of a camera: the frame loop looks at all of them for each detection."""
MOST_LINES = 64
"""Of a camera: the frame loop looks at all of them for each tracked object."""
MOST_CAMERAS = 256

Point = tuple[float, float]


def _polygon(corners: tuple[Point, ...]) -> tuple[Point, ...]:
    if not 3 <= len(corners) <= MOST_CORNERS:
        raise ValueError(f"3 to {MOST_CORNERS} corners, as [[0, 0.5], [1, 0.5], [1, 1]]")
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    if any(_cross(*first, *second) for first, second in combinations(sides, 2)):
        raise ValueError("a polygon whose sides do not cross")
    if abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in sides)) < 1e-6:
        raise ValueError("a polygon with an area")
    return corners


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Return whether the segments ab and cd cross at a point inside both."""

    def turn(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0


_Corner = Annotated[tuple[Unit, Unit], Strict(False)]
Zone = Annotated[tuple[_Corner, ...], Strict(False), AfterValidator(_polygon)]
"""A polygon; the corners are x, y as shares (0..1) of the frame's width and height, from its top left."""


def _two_points(points: tuple[Point, ...]) -> tuple[Point, ...]:
    if len(points) != 2 or max(abs(a - b) for a, b in zip(*points, strict=True)) < 0.001:
        raise ValueError("two different points, as [[0, 0.5], [1, 0.5]]")
    return points


Line = Annotated[tuple[_Corner, ...], Strict(False), AfterValidator(_two_points)]
"""From one point to another, as shares like a zone's corners; "in" is from its left to its right, looking from the
first point to the second."""

_NumberAsText = BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v)


def _source(text: str) -> str:
    source = restore_bytes(text)
    remember_address(source)
    return source


Source = Annotated[str, _NumberAsText, AfterValidator(_source)]
"""What open_source takes; a whole number is a camera."""

ClassFilter = Annotated[tuple[Annotated[str, _NumberAsText], ...], Field(min_length=1)]
"""Classes by name or by number, at least one: none would detect nothing."""

Confidences = Unit | dict[str, Unit]
"""Minimum confidence (0..1); or one per class, by name or number, with `default` for the others."""


class Camera(Section):
    """One of several cameras that share an engine."""

    name: Annotated[str, AfterValidator(_name)]
    """Name in outputs, log and web page: a-z, 0-9 and -."""
    source: Source
    """Camera number, device, address, file, folder, glob or `demo`."""
    size: FrameSize | None = None
    """Width and height that the camera is set to."""
    fps: Rate | None = None
    """Frames per second that the camera is set to."""
    rate: Rate | None = None
    """Maximum frames per second to run the detector on; default: no limit."""
    conf: Confidences | None = None
    """Default: that of `run`."""
    classes: ClassFilter | None = None
    """Default: those of `run`."""
    tiles: TilesSetting | None = None
    """Default: that of `run`."""
    zones: dict[Annotated[str, AfterValidator(_name)], Zone] = Field(default_factory=dict, max_length=MOST_ZONES)
    """Zones that must contain an object's anchor, its box's bottom center, for it to count; default: anywhere."""
    lines: dict[Annotated[str, AfterValidator(_name)], Line] = Field(default_factory=dict, max_length=MOST_LINES)
    """Lines [[x1, y1], [x2, y2]] at which crossings are counted; `in` is from left to right of it. Needs `tracking`."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Transport of an RTSP stream."""
    frozen: Annotated[float, Field(ge=0, le=3600)] = 1.5
    """Seconds without a single changed bit after which the camera counts as frozen; 0: never."""

    def opens_like(self, other: Camera) -> bool:
        """Return whether both can share one open source."""
        keys = ("name", "source", "size", "fps", "transport", "frozen")
        return all(getattr(self, key) == getattr(other, key) for key in keys)


def check_together(cameras: Sequence[Camera], *, tracking: bool) -> None:
    """Raise ValueError if two cameras have the same name, or one has lines although objects are not tracked."""
    names = [camera.name for camera in cameras]
    if len(set(names)) < len(names):
        raise ValueError(f"cameras of different names, found {', '.join(names)}")
    counting = next((camera.name for camera in cameras if camera.lines), None)
    if counting is not None and not tracking:
        raise ValueError(f"tracking: bytetrack (or sort), since camera {counting} has lines")


ONLY = "camera"
"""The name of a camera without a name."""


def of_sources(sources: Sequence[str]) -> dict[str, object]:
    """Return the keys of `run:` for these sources: none, `source`, or `cameras`.

    Cameras are named after their numbers, as camera-0, if all sources are different numbers; else camera-1, camera-2
    ... in order.
    """
    if len(sources) < 2:
        return {"source": sources[0]} if sources else {}
    by_number = all(map(str.isdecimal, sources)) and len(set(sources)) == len(sources)
    numbers = sources if by_number else range(1, 1 + len(sources))
    return {"cameras": [{"name": f"{ONLY}-{n}", "source": source} for n, source in zip(numbers, sources, strict=True)]}
