"""What the frame loop counts, and what is judged from it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from edgesparse.runtime.detections import Detections
from edgesparse.service.health import PATIENCE, Health
from edgesparse.service.tally import BOUNDS_MS, COLUMNS, Tally, milliseconds

ROWS = some.lists(some.lists(some.integers(0, 10**10), min_size=len(COLUMNS), max_size=len(COLUMNS)), max_size=50)


@settings(deadline=None)
@given(rows=ROWS)
def test_histograms_hold_every_frame_once(rows: list[list[int]]) -> None:
    tally = Tally(3)
    for number, row in enumerate(rows):
        tally.add(f"camera-{number % 3}", np.array(row, np.int64), Detections.none())
    assert tally.frames == len(rows)
    for column, found in tally.stages().items():
        values = [row[COLUMNS.index(column)] for row in rows]
        assert found.count == len(rows) and abs(found.seconds - sum(values) / 1e9) < 1e-6
        assert found.below == tuple(sum(value <= bound * 1e6 for value in values) for bound in BOUNDS_MS)
    assert sum(found.count for found in tally.ages().values()) == len(rows)


def test_what_is_recent_is_of_the_newest_frames_only() -> None:
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


def judged(*cameras: Any, turned: float = 0.0, framed: float | None = 0.0, failing: int = 0) -> tuple[bool, bool, str]:
    """Of a loop that turned and detected so many seconds ago."""
    health, now = Health(), time.monotonic() + 100
    health.turn(cameras)
    health.turned, health.framed, health.failing = now - turned, 0.0 if framed is None else now - framed, failing
    found = health.judge(now)
    return found.alive, found.detecting, found.why


def test_judgements() -> None:
    now = time.monotonic() + 100
    live = camera("live")
    assert judged(live) == (True, True, "")
    assert judged(live, camera("away")) == (True, True, "1 of 2 cameras away: door (no route)")
    assert judged(camera("away")) == (True, False, "no camera gives frames: door (no route)")
    assert judged(live, turned=PATIENCE + 1)[:2] == (False, False), "the loop hangs"
    assert judged(live, framed=PATIENCE + 1)[:2] == (False, False), "it turns, and detects nothing"
    assert judged(camera("live", now - 1), framed=PATIENCE + 1)[:2] == (True, True), "it came back a second ago"
    assert judged(live, failing=2) == (False, False, "inference failed 2 times in a row")
    assert judged(camera("live", now - 1), framed=None) == (True, False, "waiting for the first inference")
    assert Health().judge() == Health().judge(0.0) and not Health().judge().alive
