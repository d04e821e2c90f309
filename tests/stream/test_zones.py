"""Zones: which of them contain a point, as OpenCV decides it for each polygon."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.stream.zones import Presence, Zones

Polygon = Sequence[tuple[float, float]]
RECTANGLE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.5), (0.25, 0.5))
ROOF = ((0.25, 0.5), (0.5, 0.25), (0.75, 0.5), (0.75, 0.75), (0.25, 0.75))

shares = st.integers(0, 16).map(lambda step: step / 16) | st.floats(0, 1, width=32)
points = st.lists(st.tuples(shares, shares), max_size=8)


@st.composite
def rectangles(draw: st.DrawFn) -> Polygon:
    (left, right), (top, bottom) = (sorted(draw(st.lists(shares, min_size=2, max_size=2, unique=True))) for _ in "xy")
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    start, step = draw(st.integers(0, 3)), draw(st.sampled_from((1, -1)))
    return [corners[(start + step * index) % 4] for index in range(4)]


@st.composite
def stars(draw: st.DrawFn) -> Polygon:
    """Polygons around a center, whose sides do not cross."""
    radii = np.array(draw(st.lists(st.sampled_from((0.1, 0.25, 0.5)), min_size=3, max_size=9)))
    angles = 2 * np.pi * (np.arange(len(radii)) + draw(st.floats(0, 1))) / len(radii)
    corners: Polygon = (0.5 + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]).tolist()
    return corners


@settings(max_examples=300)
@given(st.lists(rectangles() | stars(), max_size=4), points)
def test_points_are_where_opencv_finds_them(polygons: list[Polygon], at: list[tuple[float, float]]) -> None:
    zones = {str(number): polygon for number, polygon in enumerate(polygons)}
    at = [*at, *(tuple(np.array(corner, np.float32).tolist()) for polygon in polygons for corner in polygon)]
    arrays = {name: np.array(polygon, np.float32) for name, polygon in zones.items()}
    expected = [
        tuple(name for name, polygon in arrays.items() if cv2.pointPolygonTest(polygon, point, False) >= 0)
        for point in at
    ]
    assert Zones(zones).containing([x for x, _ in at], [y for _, y in at]) == expected


def test_the_border_of_a_zone_is_in_it() -> None:
    zones = Zones({"rectangle": RECTANGLE, "roof": ROOF})
    xs, ys = zip((0.25, 0.25), (0.5, 0.25), (0.5, 0.5), (0.25, 0.75), (0.3, 0.3), (0.1, 0.5), strict=True)
    assert zones.containing(xs, ys) == [
        ("rectangle",),
        ("rectangle", "roof"),
        ("rectangle", "roof"),
        ("roof",),
        ("rectangle",),
        (),
    ]


def test_without_zones_points_are_in_none() -> None:
    assert Zones({}).containing([0.5, 0.1], [0.5, 0.9]) == [(), ()]


def test_opencv_tests_only_points_within_the_bounds_of_a_polygon(monkeypatch: pytest.MonkeyPatch) -> None:
    zones, tested = Zones({"rectangle": RECTANGLE, "roof": ROOF}), []

    def test(polygon: object, point: tuple[float, float], distance: bool) -> float:
        tested.append(point)
        return 1.0

    monkeypatch.setattr(cv2, "pointPolygonTest", test)
    zones.containing([0.3, 0.5, 0.9], [0.2, 0.6, 0.6])
    assert tested == [(0.5, 0.6)]


def test_a_stay_lasts_until_the_object_was_last_inside() -> None:
    stay = Presence(1_000_000_000)
    stay.see(3_500_000_000)
    assert stay.seconds == 2.5
    assert not stay.ended(4_500_000_000) and stay.ended(4_500_000_001)
