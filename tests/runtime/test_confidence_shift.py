"""How confidences shift: per class, along their range, and boxes that fall below the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesparse.pages.shifts import shift_tables
from edgesparse.runtime.confidence_shift import confidence_shift
from edgesparse.runtime.detections import Detections

NAMES = ("person", "dog")


def detected(*confidences: float, class_id: int = 0) -> Detections:
    """Boxes far apart, one per confidence."""
    left = 100 * np.arange(len(confidences), dtype=np.float32)
    boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=1)
    return Detections(boxes, np.array(confidences, np.float32), np.full(len(confidences), class_id, np.int64))


def test_halved_confidences_show_though_the_order_is_the_same() -> None:
    pairs = [
        (detected(0.4, 0.6, 0.8, 0.1), detected(0.2, 0.3, 0.4, 0.05)),
        (detected(0.5, class_id=1), detected(0.5, class_id=1)),
    ]
    shift = confidence_shift(pairs, NAMES)
    assert shift is not None
    assert (shift.images, shift.boxes, shift.lost) == (2, 4, 0)  # 0.1 is below what the original keeps
    assert shift.median == pytest.approx(0.25) and shift.change == pytest.approx(-0.25)
    person, dog = shift.classes
    assert (person.name, person.boxes, dog.name, dog.boxes) == ("person", 3, "dog", 1)
    assert person.change == pytest.approx(-0.3) and dog.median == 0
    first = shift.curve[0]
    assert [first.original, first.changed] == pytest.approx([0.45, 0.35]) and first.boxes == 2
    text = shift_tables(shift)
    assert "person" in text and "0.250 (median)" in text


def test_boxes_without_a_counterpart_are_lost_and_without_any_there_is_no_shift() -> None:
    shift = confidence_shift([(detected(0.4, 0.6), detected(0.4))], NAMES)
    assert shift is not None and shift.lost == 1
    assert confidence_shift([(detected(0.4), detected())], NAMES) is None
    assert confidence_shift([], NAMES) is None and shift_tables(None) == ""


@given(st.lists(st.floats(0.26, 1), min_size=1, max_size=20), st.floats(-0.2, 0))
def test_a_constant_shift_is_every_figure(before: list[float], by: float) -> None:
    shift = confidence_shift([(detected(*before), detected(*(each + by for each in before)))], NAMES)
    assert shift is not None
    assert (shift.median, shift.p90, shift.change) == pytest.approx((-by, -by, by), abs=2e-4)
    assert sum(point.boxes for point in shift.curve) == shift.boxes == len(before)
