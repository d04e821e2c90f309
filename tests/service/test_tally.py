"""What the frame loop counts, and how its health is judged."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from edgesparse.runtime.detections import Detections
from edgesparse.service.health import PATIENCE, Health
from edgesparse.service.tally import BOUNDS_MS, COLUMNS, Tally, milliseconds

ROWS = some.lists(some.lists(some.integers(0, 10**10), min_size=len(COLUMNS), max_size=len(COLUMNS)), max_size=50)


@given(rows=ROWS)
def test_histograms_hold_every_frame_once(rows: list[list[int]]) -> None:
    tally = Tally(3)
    for number, row in enumerate(rows):
        tally.add(f"camera-{number % 3}", np.array(row, np.int64), Detections.none())
    assert tally.frames == len(rows)
    for (camera, column), histogram in tally.stages().items():
        values = [row[COLUMNS.index(column)] for row in rows[int(camera[-1]) :: 3]]
        assert histogram.count == len(values) and abs(histogram.seconds - sum(values) / 1e9) < 1e-6
        assert histogram.below == tuple(sum(value <= bound * 1e6 for value in values) for bound in BOUNDS_MS)
    assert sum(histogram.count for histogram in tally.ages().values()) == len(rows)


def test_a_removed_camera_is_no_longer_counted_and_no_other_is_taken_for_it() -> None:
    tally, row = Tally(1), np.zeros(len(COLUMNS), np.int64)
    for name in ("door", "yard"):
        tally.add(name, row, Detections.none())
    tally.keep(["yard"])
    tally.add("gate", row, Detections.none())
    assert {camera for camera, _ in tally.stages()} == {"yard", "gate"} and tally.frames == 3
    assert tally.number("door") is None
    assert len({*tally.recent().camera.tolist()}) == 3


def test_recent_frames_are_the_newest() -> None:
    tally = Tally(1)
    row = np.zeros(len(COLUMNS), np.int64)
    for number in range(5000):
        row[1:5], row[-1] = number, number
        tally.add("door", row, Detections.none())
    recent = tally.recent()
    assert len(recent.age) == 4096 and recent.age[0] == 5000 - 4096 and recent.age[-1] == 4999
    assert recent.latency[-1] == 4 * 4999
    assert list(tally.recent(4998).age) == [4998, 4999]
    assert milliseconds(tally.recent(5000).age, 50) == ()


def camera(state: str, since: float = 0.0) -> Any:
    return SimpleNamespace(name="door", state=state, why="no route", since_ns=int(since * 1e9))


def judged(*cameras: Any, turn: float = 0.0, frame: float | None = 0.0, failing: int = 0) -> tuple[bool, bool, str]:
    """The verdict on a loop whose last iteration and frame were `turn` and `frame` seconds ago."""
    health, now = Health(), time.monotonic() + 100
    health.update(cameras)
    health.turn_at, health.frame_at, health.failing = now - turn, 0.0 if frame is None else now - frame, failing
    judgement = health.judge(now)
    return judgement.alive, judgement.detecting, judgement.why


def test_judgements() -> None:
    now = time.monotonic() + 100
    live = camera("live")
    assert judged(live) == (True, True, "")
    assert judged(live, camera("away")) == (True, True, "1 of 2 cameras away: door (no route)")
    assert judged(camera("away")) == (True, False, "no camera delivers frames: door (no route)")
    assert judged(live, turn=PATIENCE + 1)[:2] == (False, False), "the loop hangs"
    assert judged(live, frame=PATIENCE + 1)[:2] == (False, False), "it turns without results"
    assert judged(camera("live", now - 1), frame=PATIENCE + 1)[:2] == (True, True), "it came back a second ago"
    assert judged(live, failing=2) == (False, False, "inference failed 2 times in a row")
    assert judged(camera("live", now - 1), frame=None) == (True, False, "waiting for the first inference")
    assert Health().judge() == Health().judge(0.0) and not Health().judge().alive


FAULT = "values that are not finite numbers"


def test_invalid_outputs_are_reported_and_mostly_invalid_ones_are_no_detections() -> None:
    health, now = Health(), time.monotonic()
    health.update([camera("live")])
    health.frame()
    health.outputs(10, {})
    assert health.judge(now).why == ""
    health.outputs(20, {FAULT: 3})
    assert health.judge(now).detecting and health.judge(now).why == f"3 model outputs are not valid boxes: {FAULT}"
    health.outputs(21, {FAULT: 90})
    assert (health.judge(now).alive, health.judge(now).detecting) == (True, False)
    assert health.judge(now).why == f"90 model outputs are not valid boxes: {FAULT}"
    for kept in range(30, 40):
        health.outputs(kept, {FAULT: 90})
    assert health.judge(now).detecting and health.judge(now).why == "", "only the last seconds count"
    health.outputs(0, {})
    assert health.judge(now).why == "", "another engine counts from zero"
