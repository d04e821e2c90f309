"""A Jetson in a folder for tests of provisioning: files are real, programs are not.

tests/deploy/test_debootstrap.py runs the real programs.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deploy.provision import system
from deploy.provision.__main__ import main

ROOT = Path(__file__).parents[2]
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 0, BOARD: generic\n"
UNIT = "[Service]\nExecStart=/opt/edgesparse/bin/edgesparse run --service\n[Install]\nWantedBy=multi-user.target\n"
MODES = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n"


class Version(NamedTuple):
    """Like sys.version_info."""

    major: int
    minor: int


class FakeJetson(system.System):
    """A Jetson in a folder: files are real, programs are not. `outputs`: what programs print, keyed by part of the
    command."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        root.mkdir(parents=True, exist_ok=True)
        self.ran: list[str] = []
        self.members: set[str] = set()
        self.file_groups: list[str] = []
        self.user_exists = False
        self.outputs: dict[str, str | None] = {
            "dpkg-query --show --showformat=${db:Status-Status}": "installed",
            "dpkg-query": "36.4.3-20250107174145",
            "nvpmodel": "NV Power Mode: MAXN\n0\n",
            "import tensorrt; print": "10.3.0",
            "import pycuda": "2026.1",
            "import cv2": "GStreamer: NO",
            "import pip": "",
        }

    def output(self, *command: str) -> str | None:
        line = " ".join(command)
        if command[0] == "openssl":
            return super().output(*command)
        return next((text for part, text in self.outputs.items() if part in line), None)

    def run(self, *command: str, remedy: str, **environment: str) -> str:
        line = " ".join(command)
        self.ran.append(line)
        if " -m venv " in line:
            self.write("/opt/edgesparse/bin/python", "")
            version = "{}.{}".format(*sys.version_info[:2])
            self.write("/opt/edgesparse/pyvenv.cfg", f"include-system-site-packages = true\nversion = {version}.1\n")
        elif " -m pip wheel " in line:
            make_wheel(self.path("/opt/edgesparse/wheel"))
        elif " -m pip install " in line and "edgesparse-" in line:
            self.write("/opt/edgesparse/bin/edgesparse", "")
        elif command[0] == "useradd":
            self.user_exists = True
        elif command[0] == "usermod":
            self.members |= set(command[2].split(","))
        elif command[0] == "systemctl" and command[1] in ("enable", "disable"):
            timer = command[-1].endswith(".timer")
            target = (
                "timers.target.wants/edgesparse-pull.timer" if timer else "multi-user.target.wants/edgesparse.service"
            )
            link = self.path(f"/etc/systemd/system/{target}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../{link.name}") if command[1] == "enable" else link.unlink()
        elif command[:2] == ("systemctl", "restart"):
            self.outputs["ActiveEnterTimestamp"] = f"@{time.time():.0f}"
        elif "doctor" in command:
            return json.dumps({"findings": [{"what": "GPU", "state": "ok", "found": "Orin", "remedy": ""}]})
        return ""

    def sync(self) -> None:
        self.ran.append(f"sync {self.read('/opt/edgesparse/provisioned.json')}")

    def owner(self, path: Path) -> str:
        return "edgesparse" if path == self.path("/var/lib/edgesparse") else "root"

    def is_root(self, user: int) -> bool:
        return user == os.getuid()

    def give(self, handle: int, owner: str) -> None:
        pass

    def user(self, name: str) -> Any:
        return self.user_exists or None

    def groups(self, user: str) -> set[str]:
        return self.members

    def has_group(self, name: str) -> bool:
        return True

    def _set_mode(self, handle: int, mode: int, group: str) -> None:
        self.file_groups.append(group)
        os.fchmod(handle, mode)

    def tree(self) -> dict[str, str]:
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("provision")]
        return {str(path.relative_to(self.root)): path.read_text(errors="replace") for path in files}


def sign_wheelhouse(folder: Path, key: Path | None = None) -> None:
    """List and sign a wheelhouse as scripts/wheelhouse does; by default with factory.key next to it."""
    program = runpy.run_path(str(ROOT / "scripts" / "wheelhouse"))
    text = program["write_sums"](folder)
    sign = program["signer"](key or folder.parent / "factory.key")
    (folder / "SHA256SUMS.sig").write_bytes(sign(text.encode()))


def make_wheel(folder: Path) -> Path:
    """Write a wheel of edgesparse that holds metadata only."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "edgesparse-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "edgesparse-0.1.0.dist-info/METADATA",
            "Name: edgesparse\nRequires-Dist: numpy>=1.24\nRequires-Dist: opencv-python>=4.8\n"
            "Requires-Dist: pycuda; extra == 'jetson'\nRequires-Dist: cryptography>=42; extra == 'fleet'\n",
        )
    return wheel


def provision(machine: FakeJetson, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """Run provisioning and return its report."""
    code = main([*map(str, arguments), "--json"], machine)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["code"] == code
    return report


def failure(report: dict[str, Any]) -> tuple[str, str, str]:
    """Return step, reason and remedy of the failed step."""
    (step,) = [step for step in report["steps"] if step["state"] == "failed"]
    return step["step"], step["why"], step["remedy"]
