"""Provisioning, access to the machine: failing programs, and files that are written safely."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from deploy.provision import system


def test_a_failed_program_is_reported_by_its_error_line() -> None:
    with pytest.raises(system.StepFailed, match="ended with 3: E: error: no such package") as error:
        system.System().run("sh", "-c", "echo hello; echo 'E: error: no such package'; echo bye; exit 3", remedy="fix")
    assert error.value.remedy == "fix"
    with pytest.raises(system.StepFailed, match="no-such-program: No such file"):
        system.System().run("no-such-program", remedy="install it")


def test_a_program_that_does_not_answer_is_no_program_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, a deploy that had succeeded was reported as without effect, since its check took too long."""
    assert system.System().output("false") is None and system.System().output("no-such-program") is None
    monkeypatch.setattr(system, "ANSWER_SECONDS", 0.1)
    with pytest.raises(system.StepFailed, match=r"`sleep 60` has not answered in 0\.1 s") as error:
        system.System().output("sleep", "60")
    assert error.value.remedy == "run this again once the machine is less busy"


def test_a_file_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = system.System(tmp_path)
    machine.write("/a", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        machine.write("/a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and machine.read("/a") == "old"


def test_what_a_power_cut_left_of_a_file_is_removed(tmp_path: Path) -> None:
    """Not what another process is writing, nor what an editor or a user has there."""
    for name in (".a.1-17", ".a.2-18", ".a.swp", ".ab.1-17"):
        (tmp_path / name).touch()
    with (tmp_path / ".a.2-18").open() as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        system.System(tmp_path).write("/a", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.2-18", ".a.swp", ".ab.1-17", "a"]


def test_a_link_is_not_protected_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        system.System(tmp_path).protect("/link", 0o644, "")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
