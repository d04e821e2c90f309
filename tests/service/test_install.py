"""`service install` into a folder in place of the root file system."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgesparse.cli import verbs
from edgesparse.errors import ConfigError
from edgesparse.service.install import Installation, unit_text
from edgesparse.service.settings import load_settings


def install(root: Path, *more: str) -> Result:
    return CliRunner().invoke(verbs, ["service", "install", *more, "--root", str(root)])


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """edgesparse as installed by pip, however the tests are run."""
    program = tmp_path / "venv" / "bin" / "edgesparse"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    return program


def test_unit_and_settings_are_written_once(tmp_path: Path, program: Path) -> None:
    root = tmp_path / "root"
    done = install(root, "/srv/engine", "--source", "demo")
    assert done.exit_code == 0, done.output
    unit = root / "etc/systemd/system/edgesparse.service"
    line = f"ExecStart={program} run --service --settings /etc/edgesparse/device.yaml /srv/engine\n"
    assert line in unit.read_text() and "/opt/edgesparse" not in unit.read_text()
    settings = root / "etc/edgesparse/device.yaml"
    assert load_settings(settings).overrides == {"source": "demo"}
    assert (stat.S_IMODE(settings.stat().st_mode), stat.S_IMODE(unit.stat().st_mode)) == (0o640, 0o644)
    settings.write_text("run: {source: mine}\n")
    assert install(root, "/srv/engine").exit_code == 0
    assert settings.read_text() == "run: {source: mine}\n", "a user's settings are kept"
    assert sorted(path.name for path in settings.parent.iterdir()) == ["device.yaml"]


def test_a_target_that_does_not_exist_yet_is_noted() -> None:
    assert "there is no /srv/engine yet" in Installation("/srv/engine", "demo").notes()[0]
    assert not any("there is no" in note for note in Installation("demo", "demo").notes())


PULLED = "/var/lib/edgesparse/current/package"


@pytest.fixture
def polls(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "pull.env").write_text("EDGESPARSE_PULL=https://example.org/fleet\n")
    (tmp_path / "1.root.json").write_text('{"signed": {"_type": "root"}}')
    return ("--pull", str(tmp_path / "pull.env"), "--anchor", str(tmp_path / "1.root.json"))


def test_a_device_that_pulls_gets_its_timer_and_keeps_its_secrets(
    tmp_path: Path, program: Path, polls: tuple[str, ...]
) -> None:
    root = tmp_path / "root"
    check = install(root, PULLED, *polls, "--check")
    assert check.exit_code == 0 and not root.exists()
    done = install(root, PULLED, *polls)
    assert done.exit_code == 0, done.output
    planned = [line.replace("would ", "") for line in check.stderr.splitlines() if "would " in line]
    assert len(planned) == 7 and set(planned) <= set(done.stderr.splitlines())
    assert "no key is trusted yet" in done.stderr
    units = root / "etc/systemd/system"
    assert f"ExecStart={program} fleet pull\n" in (units / "edgesparse-pull.service").read_text()
    assert "RandomizedDelaySec=" in (units / "edgesparse-pull.timer").read_text()
    secret = root / "etc/edgesparse/pull.env"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "etc/edgesparse/root.json").stat().st_mode) == 0o644
    secret.chmod(0o644)
    assert f"would write {secret}" in install(root, PULLED, *polls, "--check").stderr
    assert install(root, PULLED, *polls).exit_code == 0 and stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_polls_that_could_not_work_are_refused(tmp_path: Path, polls: tuple[str, ...]) -> None:
    root = tmp_path / "root"
    assert install(root, PULLED, *polls[:2]).exit_code == 2
    assert f"needed {PULLED} to pull" in str(install(root, "demo", *polls).exception)
    swapped = ("--pull", polls[3], "--anchor", polls[1])
    assert "needed a line EDGESPARSE_PULL=https://" in str(install(root, PULLED, *swapped).exception)
    assert "1.root.json" in str(install(root, PULLED, *polls[:2], "--anchor", polls[1]).exception)
    assert not root.exists()


def uninstall(root: Path, *more: str) -> Result:
    return CliRunner().invoke(verbs, ["service", "uninstall", "--root", str(root), *more])


def test_units_are_removed_and_settings_kept(tmp_path: Path, polls: tuple[str, ...]) -> None:
    root = tmp_path / "root"
    assert install(root, PULLED, *polls).exit_code == 0
    units = root / "etc/systemd/system"
    assert uninstall(root, "--check").stderr.count("would remove") == 3 and len(list(units.iterdir())) == 3
    assert uninstall(root).exit_code == 0 and list(units.iterdir()) == []
    kept = {path.name for path in (root / "etc/edgesparse").iterdir()}
    assert kept == {"device.yaml", "pull.env", "root.json"}
    assert "nothing to do" in uninstall(root).stderr


def test_on_this_system_programs_run_as_root_only(monkeypatch: pytest.MonkeyPatch, polls: tuple[str, ...]) -> None:
    monkeypatch.setattr("edgesparse.service.install._booted", lambda root: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    check = install(Path("/"), PULLED, *polls, "--check").stderr
    assert "would enable and start edgesparse-pull.timer" in check and "would reload systemd" in check
    assert "needed root to change" in str(install(Path("/"), PULLED, *polls).exception)


def test_another_unit_is_not_overwritten_without_force(tmp_path: Path) -> None:
    root = tmp_path / "root"
    unit = root / "etc/systemd/system/edgesparse.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    refused = install(root, "demo").exception
    assert isinstance(refused, ConfigError) and "exists and differs: pass --force" in str(refused)
    assert unit.read_text() == "[Unit]\n" and not (root / "etc/edgesparse").exists()
    assert install(root, "demo", "--force").exit_code == 0
    assert unit.read_text().rstrip().endswith("WantedBy=multi-user.target")


def test_a_file_that_is_not_text_differs(tmp_path: Path) -> None:
    unit = tmp_path / "root/etc/systemd/system/edgesparse.service"
    unit.parent.mkdir(parents=True)
    unit.write_bytes(b"\xff")
    assert "exists and differs" in str(install(tmp_path / "root", "demo").exception)


def test_the_settings_get_the_group_of_the_user_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setattr("edgesparse.service.install.USER", me.pw_name)
    monkeypatch.setattr("edgesparse.service.install.grp.getgrnam", lambda name: {}[name])
    monkeypatch.setattr("edgesparse.service.install._here", lambda root: True)
    root = tmp_path / "root"
    for change in Installation("demo", "/dev/video0", root).changes():
        if str(root) in change.what:
            change.make()
    assert (root / "etc/edgesparse/device.yaml").stat().st_gid == me.pw_gid


@pytest.mark.parametrize(
    ("target", "message"),
    [("/home/me/engine", "which the service cannot read"), ("/srv/my engine", "needed a path without blanks")],
)
def test_what_the_unit_could_not_read_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        unit_text("edgesparse.service", target)


def test_an_environment_without_the_program_is_refused(program: Path) -> None:
    program.unlink()
    with pytest.raises(ConfigError, match="install edgesparse with pip into this Python's environment"):
        unit_text("edgesparse.service", "demo")
