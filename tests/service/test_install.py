"""`service install` into a folder in place of the root file system."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgesparse.cli import verbs
from edgesparse.errors import ConfigError
from edgesparse.service.install import unit_text
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


@pytest.mark.parametrize(
    ("target", "message"),
    [("/home/me/engine", "which the service cannot read"), ("/srv/my engine", "needed a path without blanks")],
)
def test_what_the_unit_could_not_read_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        unit_text(target)


def test_an_environment_without_the_program_is_refused(program: Path) -> None:
    program.unlink()
    with pytest.raises(ConfigError, match="install edgesparse with pip into this Python's environment"):
        unit_text("demo")
