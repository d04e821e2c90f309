"""The systemd unit, checked by systemd's own tools. Last run with systemd 252."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "edgesparse.service"

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt install systemd"),
]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists, which systemd checks."""
    program = Path(sys.executable).parent / "edgesparse"
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/edgesparse/bin/edgesparse", str(program)))
    return path


def test_verify_reports_nothing(unit: Path) -> None:
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_timer_and_the_unit_of_polls_are_valid(unit: Path) -> None:
    for name in ("edgesparse-pull.timer", "edgesparse-pull.service"):
        text = (UNIT.parent / name).read_text()
        (unit.parent / name).write_text(text.replace("/opt/edgesparse/bin/edgesparse", sys.executable))
    done = analyze("verify", str(unit.parent / "edgesparse-pull.timer"), str(unit.parent / "edgesparse-pull.service"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_poll_outlives_a_build_that_runs_out_of_memory() -> None:
    """By default, systemd ends the whole unit once the kernel has ended one of its processes."""
    assert "\nOOMPolicy=continue\n" in (UNIT.parent / "edgesparse-pull.service").read_text()


def test_verify_reports_a_wrong_key(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in analyze("verify", str(unit)).stderr


def test_the_exposure_level_is_low(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(unit))
    match = re.search(r"exposure level for edgesparse.service: ([\d.]+)", done.stdout)
    assert match is not None and float(match[1]) <= 2.0, done.stdout
    assert done.returncode == 0


def test_the_unit_allows_cameras_and_the_gpu() -> None:
    text = UNIT.read_text()
    assert "DeviceAllow=char-video4linux rw" in text and "DevicePolicy=closed" in text
    assert "\nPrivateDevices" not in text
    assert "SupplementaryGroups=video render" in text
    assert re.search(r"^After=.*nvargus-daemon\.service", text, re.MULTILINE)
    assert re.search(r"^ExecStart=/opt/edgesparse/bin/edgesparse run --service --settings ", text, re.MULTILINE)
