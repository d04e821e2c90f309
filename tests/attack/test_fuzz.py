"""Promise: whatever is in a file, a bundle or a request, it is read or refused in one line.

Run by hand, fuzz.py reads tens of thousands of inputs. These tests read a small fixed part of them, and check that
fuzz.py detects every kind of finding.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import fuzz
import pytest
from targets import TARGETS, Target

from edgesparse.errors import ConfigError


@pytest.mark.long
@pytest.mark.timeout(600)
def test_damaged_files_end_in_one_line_at_most() -> None:
    outcomes = list(fuzz.fuzz(fuzz.cases_of(TARGETS, 0, 70 * len(TARGETS)), 2))
    assert len(outcomes) == 70 * len(TARGETS)
    assert [outcome for outcome in outcomes if outcome.bad] == []
    for name in TARGETS:
        kinds = {outcome.kind for outcome in outcomes if outcome.target == name}
        assert kinds == {"read", "refused"} or name in ("state", "manifest", "bundle"), "damage of both degrees"


def _raise(error: BaseException) -> None:
    raise error


def _leave_a_part(folder: Path) -> None:
    (folder / "x.part").touch()


def _write_an_address(rng: random.Random, sound: Path, folder: Path, address: str = "user:secret@camera") -> None:
    (folder / "r.yaml").write_text(f"source: rtsp://{address}\n")


def test_a_word_that_nothing_tells_to_be_a_password_is_none(tmp_path: Path) -> None:
    _write_an_address(random.Random(0), tmp_path, tmp_path, "user@camera, rate: 5secret")
    assert not fuzz._leaked("found '5secret'", tmp_path)
    _write_an_address(random.Random(0), tmp_path, tmp_path)
    assert fuzz._leaked("found '5secret'", tmp_path) and not fuzz._leaked("found '5'", tmp_path)


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda folder: None, "read"),
        (lambda folder: _raise(ConfigError("found 1, needed 2")), "refused"),
        (lambda folder: _raise(ConfigError("two\nlines")), "message"),
        (lambda folder: _raise(ConfigError("at rtsp://user:secret@camera")), "message"),
        (lambda folder: _raise(ConfigError("found 'secret'")), "message"),
        (lambda folder: _raise(KeyError("x")), "traceback"),
        (lambda folder: _raise(RecursionError("x")), "traceback"),
        (_leave_a_part, "half-written"),
        (lambda folder: time.sleep(100), "hang"),
        (lambda folder: os.kill(os.getpid(), signal.SIGSEGV), "signal"),
        (lambda folder: os._exit(3), "signal"),
        (lambda folder: bytearray(fuzz.MEMORY + 1) and None, "traceback"),
    ],
)
def test_each_kind_of_fault_is_found(monkeypatch: pytest.MonkeyPatch, read: object, kind: str) -> None:
    if kind == "hang":
        monkeypatch.setattr(fuzz, "SECONDS", 5.0)
    faulty = Target(lambda folder: None, _write_an_address, read)  # type: ignore[arg-type]
    monkeypatch.setitem(TARGETS, "faulty", faulty)
    outcomes = list(fuzz.fuzz([("faulty", 0), ("names", 1)], 1))
    assert (outcomes[0].target, outcomes[0].kind) == ("faulty", kind)
    assert outcomes[1].kind in ("read", "refused"), "the next child works"


def test_an_input_follows_from_its_number(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        fuzz.read_damaged("recipe", 7, tmp_path, tmp_path / folder)
    assert (tmp_path / "a" / "r.yaml").read_bytes() == (tmp_path / "b" / "r.yaml").read_bytes()
