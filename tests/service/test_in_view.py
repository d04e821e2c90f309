"""What each camera sees: additions count immediately, removals after a second without the object."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from samples import NAMES, sample_detections

from edgesparse.service.in_view import Viewed


def test_more_counts_at_once_and_less_within_a_second() -> None:
    viewed = Viewed()
    first = viewed.add("door", sample_detections())
    assert first is not None and first.record(NAMES) == {"total": 0, "classes": {}}
    more = viewed.add("door", sample_detections(0, 0, 1))
    assert more is not None and more.record(NAMES) == {"total": 3, "classes": {"person": 2, "dog": 1}}
    assert viewed.add("door", sample_detections(0)) is None
    assert viewed.settle(["door"]) == {}, "the second has shown all three"
    assert viewed.settle(["door"]) == {}, "no frame since: nothing is known to have gone"
    viewed.add("door", sample_detections(0))
    assert viewed.settle(["door"])["door"].record(NAMES) == {"total": 1, "classes": {"person": 1}}
    assert viewed.settle([])["door"].record(NAMES)["total"] == 0, "a camera that is away sees nothing"
    viewed.keep(["yard"])
    assert viewed.now() == {}


def test_zones_are_counted_and_empty_ones_are_listed() -> None:
    viewed = Viewed()
    counts = viewed.add("door", sample_detections(0, 1, zones=(("gate", "path"), ("gate",))))
    assert counts is not None
    zones = counts.record(NAMES, ("gate", "yard"))["zones"]
    assert zones["gate"] == {"total": 2, "classes": {"person": 1, "dog": 1}}
    assert zones["path"] == {"total": 1, "classes": {"person": 1}}
    assert zones["yard"] == {"total": 0, "classes": {}}


@given(st.lists(st.lists(st.integers(0, 1), max_size=4), min_size=1, max_size=6))
def test_what_is_shown_is_the_most_of_a_frame_of_the_second(frames: list[list[int]]) -> None:
    viewed = Viewed()
    viewed.add("door", sample_detections(1, 1, 1, 1, 1))
    viewed.settle(["door"])
    for frame in frames:
        viewed.add("door", sample_detections(*frame))
    viewed.settle(["door"])
    expected = {name: max(frame.count(i) for frame in frames) for i, name in enumerate(NAMES)}
    shown = viewed.now()["door"].record(NAMES)["classes"]
    assert shown == {name: count for name, count in expected.items() if count}


def test_what_only_crosses_a_line_is_not_in_view() -> None:
    counts = Viewed().add("door", sample_detections(0, 1, zones=((), ("gate",))))
    assert counts is not None and counts.record(NAMES)["classes"] == {"dog": 1}
