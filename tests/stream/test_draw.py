"""Boxes and labels."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesparse.runtime.counts import Counts, Crossing
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.draw import (
    LINE,
    PALETTE,
    ZONE,
    Canvas,
    _label,
    _readable_on,
    _tile,
    class_name,
    draw,
    draw_counts,
)

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


@settings(max_examples=60)
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


def test_a_label_that_was_drawn_before_looks_the_same() -> None:
    detections = boxes((100, 200, 300, 400, 0.9, 0), (105, 190, 310, 390, 0.9, 0), (20, 20, 90, 60, 0.5, 1))
    first = drawn(480, 640, detections)
    drawn(480, 640, boxes((100, 185, 300, 195, 0.9, 1)))
    assert (drawn(480, 640, detections) == first).all()
    assert (drawn(480, 1280, detections)[:, :640] == first).all()


@pytest.mark.parametrize("text", ["person 0.53", "bus 3 #1274 0.98 61 s", "Fußgänger 12 0.50"])
@pytest.mark.parametrize("scale", [0.5, 1.2, 2.4])
def test_a_label_of_pieces_looks_like_one_drawn_at_once(text: str, scale: float) -> None:
    side = round(900 * scale)
    image, stroke = np.zeros((side, 2 * side, 3), np.uint8), round(scale * 1.5)
    _label(image, text, 10, 200, (255, 255, 255), 2)
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, stroke)
    margin = _tile("", (255, 255, 255), scale).shape[1]
    shown = np.flatnonzero(image.any((0, 2)))
    assert shown[-1] + 1 - shown[0] == pytest.approx(width + 2 * margin, abs=0.5 * len(text))
    ink = int((image[image.any((1, 2))][:, shown[0] : shown[-1] + 1] < 128).all(2).sum())
    alone = np.zeros((side, 2 * side), np.uint8)
    cv2.putText(alone, text, (10, 200), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, stroke, cv2.LINE_AA)
    assert ink == pytest.approx(int((alone > 127).sum()), rel=0.1)


@pytest.mark.parametrize("thickness", [1, 2, 9])
def test_outlines_are_as_thick_as_they_should_be_and_centered_on_the_edges(thickness: int) -> None:
    size = 240 * thickness
    left, top, right, bottom = (round(share * size) for share in (0.2, 0.4, 0.7, 0.8))
    image = drawn(size, size, boxes((left, top, right, bottom, 0.9, 0)))
    for pixels, edges in ((image[(top + bottom) // 2], (left, right)), (image[:, right - thickness], (top, bottom))):
        shown = np.flatnonzero((pixels == PALETTE[0]).all(1))
        edges_shown = [edge + np.arange(thickness) - thickness // 2 for edge in edges]
        assert shown[-2 * thickness :].tolist() == np.concatenate(edges_shown).tolist()


def test_a_class_without_a_name_is_its_number() -> None:
    assert [class_name(NAMES, number) for number in (0, 1, 2, -1)] == ["person", "bicycle", "2", "-1"]


def test_zones_and_lines_are_drawn_with_an_arrow_to_where_in_is() -> None:
    image = np.zeros((400, 600, 3), np.uint8)
    zones = {"hall": ((0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.1, 0.3))}
    draw_counts(image, Counts({"door": ((0.2, 0.6), (0.8, 0.6))}, zones))
    green, yellow = (np.abs(image.astype(int) - color).max(2) < 60 for color in (LINE, ZONE))
    assert green[239, 130:470].all() and yellow[40:120, 60].all()
    assert green[250:270, 280:320].any() and not green[205:230, 280:320].any(), "below, at the line's right"


def test_what_was_counted_is_drawn_and_changes_the_label() -> None:
    counts = Counts({"door": ((0.2, 0.6), (0.8, 0.6))}, tracked=True)
    crossed = counts.after((Crossing("door", "in", 1, 0),), (), ())
    empty = Detections.none()
    frame = Frame(np.zeros((400, 600, 3), np.uint8), 0, 0, "x")
    images = [
        Canvas(NAMES).annotated(frame, Detections(empty.xyxy, empty.confidence, empty.class_id, counts=of))
        for of in (counts, crossed)
    ]
    changed = np.argwhere((images[0] != images[1]).any(2))
    assert 0 < len(changed) < 200 and (changed[:, 0] < 240).all(), "one digit, above the line"


def test_the_number_of_an_object_and_its_seconds_in_a_zone_are_drawn() -> None:
    plain = boxes((100, 200, 300, 400, 0.9, 1))
    tracked = replace(plain, track_id=np.array([7]))
    staying = replace(tracked, zones=(("hall",),), dwell=((12.3,),))
    widths = [int((drawn(480, 640, detections)[190] != 128).any(1).sum()) for detections in (plain, tracked, staying)]
    assert widths == sorted(set(widths)), "each label is longer"
