"""Damaged metadata is refused in one line, and no decision breaks the rules of a rollout, whatever is published."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fleet_mirrors import Publisher
from edgesparse.fleet.bundle import order
from edgesparse.fleet.rollout import TRIES, Attempts, Release, Running, decide, in_wave

VALUES: tuple[Any, ...] = (None, [], {}, -1, 10**400, 1e308, "x", "\ud800", True, {"a": {"b": []}}, [{}], [None])
WHOLE = (b"", b"null", b"{}", b"\xff\xfe", b"1" * 9000, b'{"signed": ' + b'{"a":' * 3000)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Change a byte, the length, the nesting, or the value of a field."""
    at = chance.randrange(len(data))
    kind = chance.randrange(5)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return b"[" * chance.randrange(1, 16_000)
    if kind == 3:
        return chance.choice(WHOLE)
    values = json.loads(data)
    part = chance.choice([values, values["signed"]])
    part[chance.choice(sorted(part))] = chance.choice(VALUES)
    return json.dumps(values).encode()


def test_damaged_metadata_is_refused_in_one_line(tmp_path: Path) -> None:
    publisher, chance = Publisher(tmp_path, time.time()), random.Random(7)
    publisher.publish("1.0", 100)
    stored = publisher.poll(0, "", 0).stored
    publisher.publish("1.1", 50)
    genuine = publisher.states[-1]
    expected = publisher.read(stored, genuine).releases
    assert len(expected) == 2
    refused = 0
    for _ in range(150):
        name = chance.choice(["timestamp.json", "3.snapshot.json", "3.targets.json"])
        polled = publisher.read(stored, {**genuine, name: damaged(genuine[name], chance)})
        assert "\n" not in polled.why
        assert polled.why or polled.releases == expected  # only whitespace and the like may change
        refused += bool(polled.why)
    assert refused > 130


RELEASES = st.builds(
    lambda number, share, stopped, back: Release(
        name="m",
        version=f"1.{number}",
        bundle=f"{number:064x}",
        rollout=f"r{number}",
        share=share,
        stopped="bad" if stopped else "",
        back=back,
    ),
    st.integers(0, 6),
    st.sampled_from([0, 1, 50, 100]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=200)
@given(
    st.lists(RELEASES, max_size=6, unique_by=lambda release: release.version),
    st.none() | st.integers(0, 6),
    st.integers(0, 7),
    st.integers(0, TRIES),
)
def test_no_decision_breaks_the_rules(releases: list[Release], runs: int | None, other: int, failures: int) -> None:
    running = None if runs is None else Running(f"1.{runs}", f"{runs:064x}", f"{other:064x}")
    attempts = Attempts("r3", failures)
    decision = decide("device", releases, running, attempts)
    if decision.action == "keep":
        return
    release = decision.release
    assert release is not None and not release.stopped and in_wave("device", release)
    assert decision.action == "back" or not attempts.exhausted(release.rollout)
    if running is not None:
        assert release.bundle != running.bundle
        mine = next((release for release in releases if release.bundle == running.bundle), None)
        called_back = mine is not None and mine.stopped and mine.back
        assert called_back or order(release.version) > order(running.version)
