"""The simulation of a fleet, small: what it reports for ten thousand devices holds for two hundred."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.fleet import HOSTILE, Plan, simulate


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return simulate(Plan(devices=200, bad_share=20, hours=16, waves=((8, 50), (10, 100))))


def test_a_bad_release_is_stopped_and_called_back(result: dict[str, Any]) -> None:
    minutes = result["minutes after 1.1 was published"]
    assert 0 < minutes["stopped"] < minutes["last gone"]
    # Whoever was building when it was stopped does not switch; a poll later nobody runs it.
    assert minutes["last start"] <= minutes["stopped"]
    assert minutes["last gone"] <= minutes["stopped"] + 45  # two polls, since one in twenty meets a fault
    assert "1.1" not in result["versions by hour"][7]
    assert result["results"]["rolled back 1.1"] >= 3


def test_the_next_release_reaches_every_device_with_an_honest_mirror(result: dict[str, Any]) -> None:
    after = result["honest mirrors at the end"]
    assert after.get("1.2", 0) >= 0.98 * sum(after.values())
    assert result["without a working engine"] == 0


def test_a_wave_reaches_its_share(result: dict[str, Any]) -> None:
    assert 0.35 <= result["versions by hour"][10]["1.2"] / 200 <= 0.65


def test_no_hostile_mirror_installs_anything() -> None:
    """A device per kind; only the signed releases ever run, and what is refused has its reason."""
    result = simulate(Plan(devices=800, bad_share=0, hours=14, waves=((2, 100),)))
    ends = result["hostile mirrors at the end"]
    assert all(set(ends[kind]) <= {"1.0", "1.2"} and ends[kind] for kind in HOSTILE)
    for kind, words in {
        "tampered": "was signed by 0/1 keys",
        "mix": "Expected targets v",
        "garbage": "cannot be trusted",
        "endless": "longer than its limit",
        "rollback": "must be >=",
    }.items():
        assert any(words in why for why in result["refused"][kind]), (kind, result["refused"])
        assert kind == "rollback" or ends[kind] == {"1.0": 1}
    assert "honest" not in result["refused"]
