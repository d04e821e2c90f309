"""State files that are damaged or forged: set aside with the reason, never followed, never a traceback or a hang."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slots import Root
from edgesparse.fleet.state import DamagedState, Journal, SlotRecord, read_state
from edgesparse.fleet.status import status

RECORD = {"bundle": "0" * 64, "name": "model", "version": "1.0", "time": 1_790_000_000}
JOURNAL = {"id": "1", "verb": "deploy", "step": "building", "slot": "b", "old": "a", "pid": 1}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device that runs 1.0; `2.esb` is its next bundle."""
    private = bundles.key(tmp_path)
    bundles.device(tmp_path / "device").deploy(bundles.opened(bundles.signed(tmp_path / "1.esb", private, "1.0")))
    bundles.signed(tmp_path / "2.esb", private, "2.0")
    return tmp_path / "device"


def works(device: Path, name: str) -> str:
    """Check that status, recovery and a deploy work despite a damaged file. Returns the reason in the history."""
    state = status(Root(device), ServiceControl())
    assert len(state["damaged"]) == 1 and name in state["damaged"][0]
    bundles.device(device).recover()
    aside = list(device.rglob(f"{name}.damaged-*"))
    assert len(aside) == 1
    events = Root(device).history()
    reasons = [event["why"] for event in events if event.get("result") == "set aside"]
    assert len(reasons) == 1 and str(aside[0]) in reasons[0]
    with bundles.opened(device.parent / "2.esb") as source:
        assert bundles.device(device).deploy(source).result == "deployed"
    assert bundles.serving(device) == "2.0" and status(Root(device), ServiceControl())["damaged"] == []
    return str(reasons[0])


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def text(content: str) -> Callable[[Path], int]:
    return lambda path: path.write_text(content)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (text("{"), "Invalid JSON"),
    "a list": (text("[1, 2]"), ""),
    "nothing": (text(""), "Invalid JSON"),
    "binary": (lambda path: path.write_bytes(b"\xff\x00\xfe"), ""),
    "deep": (text("[" * 200_000), ""),
    "large": (text(json.dumps({**RECORD, **JOURNAL, "why": "x" * 2_000_000})), "has more than 1048576 bytes"),
    "a pipe": (pipe, "json: not a regular file"),
    "a folder": (lambda path: (path.unlink(missing_ok=True), path.mkdir()), "Is a directory"),
}


@pytest.mark.parametrize("name", ["slots/a/slot.json", "slots/b/slot.json", "deploy.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_set_aside_with_its_reason(device: Path, name: str, damage: str) -> None:
    make, reason = DAMAGE[damage]
    (device / name).parent.mkdir(parents=True, exist_ok=True)
    make(device / name)
    assert reason in works(device, Path(name).name)


@pytest.mark.parametrize(
    "change",
    [
        {"time": "x"},
        {"time": -1},
        {"committed": "now"},
        {"committed": 1e300},
        {"bad": 3},
        {"selftest": []},
        {"name": None},
    ],
)
def test_a_record_with_a_wrong_value_is_set_aside(device: Path, change: dict[str, Any]) -> None:
    (device / "slots/a/slot.json").write_text(json.dumps({**RECORD, **change}))
    assert next(iter(change)) in works(device, "slot.json")


@pytest.mark.parametrize("key", ["slot", "old"])
@pytest.mark.parametrize("value", ["../../victim", "/etc", "", "c", "a/../b", "a\0", None, 1])
def test_a_journal_never_names_a_folder_outside_the_slots(device: Path, key: str, value: Any) -> None:
    victim = device.parent / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    (device / "deploy.json").write_text(json.dumps({**JOURNAL, key: value}))
    bundles.device(device).recover()
    assert (victim / "file").read_text() == "precious" and bundles.serving(device) == "1.0"
    assert not (device / "deploy.json").exists()


@pytest.mark.parametrize("damage", ["a pipe", "a folder"])
def test_a_history_that_is_no_file_neither_hangs_nor_blocks(device: Path, damage: str) -> None:
    DAMAGE[damage][0](device / "history.jsonl")
    assert Root(device).history() == []
    assert status(Root(device), ServiceControl())["last"] is None
    works(device, "history.jsonl")


def test_lines_of_the_history_that_are_no_events_are_left_out(device: Path) -> None:
    with (device / "history.jsonl").open("a") as file:
        file.write('[1]\n{"time": "x"}\n{"time": 1e300}\n' + "[" * 100_000 + "\n5\n")
    assert [event["result"] for event in Root(device).history()] == ["deployed"]


def test_a_package_link_that_leads_elsewhere_is_not_copied(device: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (secret / "x").mkdir(parents=True)
    (secret / "x" / "file").write_text("secret")
    link = device / "slots" / "a" / "package"
    link.unlink()
    link.symlink_to(secret / "x")
    with bundles.opened(tmp_path / "2.esb") as source:
        bundles.device(device).deploy(source)
    assert list((device / "slots" / "b").rglob("file")) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([(SlotRecord, RECORD), (Journal, JOURNAL)]),
    changes=st.dictionaries(st.sampled_from([*RECORD, *JOURNAL, "committed", "bad", "selftest"]), JSON, max_size=4),
)
def test_any_values_are_a_typed_record_or_damage(tmp_path: Path, kind: Any, changes: dict[str, Any]) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({**kind[1], **changes}))
    try:
        state = read_state(path, kind[0])
    except DamagedState as error:
        assert "\n" not in str(error)
        return
    if isinstance(state, Journal):
        assert state.slot in ("a", "b") and state.old in ("a", "b", "")
    else:
        assert isinstance(state, SlotRecord) and isinstance(state.name, str) and state.time >= 0
