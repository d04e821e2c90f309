"""Boxes and labels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.runtime.detections import Detections
from edgesparse.stream.sinks.draw import PALETTE, _readable_on, class_name, draw

NAMES = ["person", "bicycle"]


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def drawn(height: int, width: int, detections: Detections) -> np.ndarray:
    image = np.full((height, width, 3), 128, np.uint8)
    draw(image, detections, NAMES)
    return image


def test_no_detections_draw_nothing() -> None:
    assert (drawn(48, 64, Detections.none()) == 128).all()


def test_a_box_is_drawn_on_its_edges_in_the_color_of_its_class() -> None:
    image = drawn(480, 640, boxes((100, 200, 300, 400, 0.9, 1)))
    for y, x in ((300, 100), (300, 300), (400, 200), (200, 280)):
        assert np.abs(image[y, x].astype(int) - PALETTE[1]).max() < 40
    assert (image[300, 200] == 128).all()
    assert (image[:170] == 128).all() and (image[410:] == 128).all()


def test_lines_and_labels_grow_with_the_image() -> None:
    small, large = (
        drawn(size, size, boxes((size * 0.3, size * 0.5, size * 0.7, size * 0.9, 0.9, 0))) for size in (240, 2160)
    )
    assert [int((image[round(len(image) * 0.7)] != 128).any(1).sum()) for image in (small, large)] > [2, 12]
    changed = [float((image != 128).any(2).mean()) for image in (small, large)]
    assert changed[1] == pytest.approx(changed[0], rel=0.5)


def test_the_label_is_above_the_box_or_inside_if_there_is_no_room() -> None:
    above = drawn(480, 640, boxes((100, 200, 300, 400, 0.9, 0)))
    assert (above[185, 105] != 128).any() and (above[215, 115] == 128).all()
    inside = drawn(480, 640, boxes((100, 2, 300, 400, 0.9, 0)))
    assert (inside[15, 110] != 128).any()


def test_a_label_at_the_right_edge_stays_inside() -> None:
    at_edge = drawn(480, 640, boxes((630, 200, 639, 400, 0.9, 0)))
    inside = drawn(480, 640, boxes((300, 200, 309, 400, 0.9, 0)))
    label = slice(170, 195)
    assert (at_edge[label] != 128).any(2).sum() == (inside[label] != 128).any(2).sum()


def test_the_most_confident_is_on_top() -> None:
    box = (100.0, 200.0, 300.0, 400.0)
    both = drawn(480, 640, boxes((*box, 0.9, 0), (*box, 0.4, 1)))
    assert (both == drawn(480, 640, boxes((*box, 0.9, 0)))).mean() > 0.99
    assert np.abs(both[300, 100].astype(int) - PALETTE[0]).max() < 40


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.lists(st.tuples(*[st.floats(-1e9, 1e9)] * 4, st.floats(0, 1), st.integers(-1, 500)), max_size=4),
)
def test_any_box_can_be_drawn_on_any_image(height: int, width: int, rows: list[tuple[float, ...]]) -> None:
    assert drawn(height, width, boxes(*rows)).shape == (height, width, 3)  # type: ignore[arg-type]


def test_consecutive_colors_differ_and_labels_contrast() -> None:
    for color, following in pairwise(PALETTE):
        assert np.abs(np.subtract(color, following)).max() > 60

    def luminance(color: tuple[int, int, int]) -> float:
        return sum(weight * (value / 255) ** 2.2 for weight, value in zip((0.0722, 0.7152, 0.2126), color, strict=True))

    for color in PALETTE:
        light, dark = sorted((luminance(color), luminance(_readable_on(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_class_without_a_name_is_its_number() -> None:
    assert [class_name(NAMES, number) for number in (0, 1, 2, -1)] == ["person", "bicycle", "2", "-1"]
