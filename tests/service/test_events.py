"""Rules that turn detections into events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from samples import NAMES, SECOND, counting, sample_detections, sample_frame

from edgesparse.errors import ConfigError
from edgesparse.service.outputs.events import EventRule, EventRules


def test_a_rule_checks_class_confidence_count_frames_and_camera() -> None:
    rule = EventRule(name="two", classes=("person",), conf=0.5, cameras=("door",), count=2, frames=2, pause=5)
    rules = EventRules([rule], NAMES)
    assert rules(sample_frame(0), sample_detections(0, 0)) == [], "only one frame so far"
    assert rules(sample_frame(1), sample_detections(0, 1)) == [], "one person: the count of frames restarts"
    assert rules(sample_frame(2), sample_detections(0, 0)) == []
    assert [event.camera for event in rules(sample_frame(3), sample_detections(0, 1, 0))] == ["door"]
    assert rules(sample_frame(4), sample_detections(0, 0)) == [], "within the pause"
    assert [event.name for event in rules(sample_frame(9), sample_detections(0, 0))] == ["two"]
    for second in (20, 21):
        assert rules(sample_frame(second, "yard"), sample_detections(0, 0)) == []
    for second in (30, 31):
        assert rules(sample_frame(second), sample_detections(0, 0, conf=0.4)) == []


def test_a_rule_in_a_zone_reports_only_what_matched() -> None:
    rules = EventRules([EventRule(name="gate", zones=("gate",))], NAMES)
    assert rules(sample_frame(0), sample_detections(0)) == []
    (event,) = rules(sample_frame(1), sample_detections(0, 1, zones=((), ("gate",))))
    assert (event.name, event.camera) == ("gate", "door")
    assert event.record["event"] == "gate" and event.record["camera"] == "door"
    detections: Any = event.record["detections"]
    assert [detection["class"] for detection in detections] == ["dog"]


def test_a_rule_with_an_unknown_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"service.events: x: classes: no class 'persn': did you mean 'person'\?"):
        EventRules([EventRule(name="x", classes=("persn",))], NAMES)


def test_an_event_starts_is_updated_and_ends_under_one_id() -> None:
    rules = EventRules([EventRule(name="person", classes=("person",), pause=3, end_after=2)], NAMES)
    (start,) = rules(sample_frame(10), sample_detections(0))
    assert (start.phase, start.record["type"], start.record["id"]) == ("start", "start", start.id) and start.id
    assert rules(sample_frame(12), sample_detections(0)) == []
    (update,) = rules(sample_frame(13), sample_detections(0))
    assert (update.phase, update.id) == ("update", start.id) and update.record["detections"]
    assert rules.ended(14 * SECOND, ["door"]) == [], "it still matches"
    assert rules.ended(19 * SECOND, ["door"]) == [], "no frame has shown that it is gone"
    rules(sample_frame(14), sample_detections(1))
    assert rules.ended(14 * SECOND, ["door"]) == [], "not long enough"
    (end,) = rules.ended(15 * SECOND, ["door"])
    assert (end.phase, end.id, end.record["seconds"]) == ("end", start.id, 3.0)
    assert end.record["start_time"] == start.record["time"] and end.record["time"] == update.record["time"]
    assert rules.ended(99 * SECOND, ["door"]) == []
    (again,) = rules(sample_frame(20), sample_detections(0))
    assert again.phase == "start" and again.id != start.id


def test_an_event_ends_when_its_camera_is_lost() -> None:
    rules = EventRules([EventRule(name="person")], NAMES)
    (start,) = rules(sample_frame(10), sample_detections(0))
    (end,) = rules.ended(10 * SECOND, ["yard"])
    assert (end.id, end.camera, end.phase) == (start.id, "door", "end")


def test_a_rule_at_a_line_reports_who_crosses_it_in_its_direction() -> None:
    names: Any = {"lines": ("way",), "pause": 0.0, "end_after": 1.0}
    rules = EventRules([EventRule(name="any", **names), EventRule(name="out", direction="out", **names)], NAMES)
    assert rules(sample_frame(0), counting()) == []
    (event,) = rules(sample_frame(1), counting(crossed=("in",)))
    assert (event.name, event.phase) == ("any", "start")
    record: Any = event.record
    assert record["counted"]["crossings"][0]["direction"] == "in" and record["detections"][0]["track"] == 7
    assert [event.name for event in rules(sample_frame(1.5), counting(crossed=("out",)))] == ["any", "out"]
    assert rules(sample_frame(1.6), counting()) == []
    ends = rules.ended(int(2.6 * SECOND), ["door"])
    assert [(end.name, end.phase, end.record["seconds"]) for end in ends] == [("any", "end", 0.5), ("out", "end", 0.0)]


def test_what_crosses_a_line_outside_of_zones_matches_only_rules_with_lines() -> None:
    rules = EventRules([EventRule(name="person"), EventRule(name="passed", lines=("way",))], NAMES)
    outside = replace(counting(crossed=("in",)), zones=((),), dwell=((),))
    assert [event.name for event in rules(sample_frame(0), outside)] == ["passed"]
    assert [event.name for event in rules(sample_frame(1), counting())] == ["person"]


def test_a_rule_with_dwell_starts_once_somebody_has_stayed_that_long_and_ends_when_they_leave() -> None:
    rules = EventRules([EventRule(name="loiters", zones=("gate",), dwell=5, end_after=0)], NAMES)
    assert rules(sample_frame(4), counting(dwell=4.9)) == []
    (start,) = rules(sample_frame(5), counting(dwell=5))
    assert start.phase == "start" and rules.ended(5 * SECOND, ["door"]) == []
    rules(sample_frame(6), counting(dwell=0))
    assert [event.phase for event in rules.ended(6 * SECOND, ["door"])] == ["end"]
    elsewhere = EventRules([EventRule(name="loiters", zones=("hall",), dwell=5)], NAMES)
    assert elsewhere(sample_frame(5), counting(dwell=9)) == []
    untracked = sample_detections(0, zones=(("gate",),))
    assert EventRules([EventRule(name="loiters", dwell=0)], NAMES)(sample_frame(5), untracked) == []
