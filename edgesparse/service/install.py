"""`service install`: unit, user and settings of the service, for edgesparse installed by pip."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edgesparse.errors import ConfigError, InstallError
from edgesparse.files import make_folder, replacing

USER = "edgesparse"
GROUPS = ("video", "render")
UNIT, SETTINGS = "etc/systemd/system/edgesparse.service", "etc/edgesparse/device.yaml"
PROGRAM, PACKAGE = "/opt/edgesparse/bin/edgesparse", "/var/lib/edgesparse/current/package"
"""The paths in deploy/edgesparse.service, which are replaced by this installation's."""
HIDDEN = ("/home", "/root", "/run/user")
"""Folders that the unit hides from the service (ProtectHome)."""
FIRST_SETTINGS = """\
# Cameras and outputs of this device. After a change: sudo systemctl reload edgesparse
run:
  source: {source}
service:
  web: {{port: 8080}}
"""


@dataclass(frozen=True)
class Installation:
    """What is installed, and where. If `root` is not /, it is an image, in which no program is run."""

    target: str
    source: str
    root: Path = Path("/")
    force: bool = False

    @property
    def here(self) -> bool:
        return self.root == Path("/")

    def run(self) -> list[str]:
        """Write what does not exist yet. Returns what was done.

        Raises ConfigError for what would not work or would be overwritten, InstallError without root."""
        unit = unit_text(self.target)
        if self.here and os.geteuid() != 0:
            raise InstallError(f"needed root to write /{UNIT}: sudo {shlex.join(sys.argv)}")
        path = self.root / UNIT
        if path.exists() and path.read_text() != unit and not self.force:
            raise ConfigError(f"{path} exists and differs: pass --force to replace it")
        done = self._user() if self.here else []
        done += self._settings()
        if not path.exists() or path.read_text() != unit:
            _write(path, unit, 0o644)
            done.append(f"wrote {path}")
        return done + (self._enable() if self.here else [])

    def _user(self) -> list[str]:
        try:
            pwd.getpwnam(USER)
            return []
        except KeyError:
            home, shell = "/var/lib/edgesparse", "/usr/sbin/nologin"
            _command("useradd", "--system", "--user-group", "--home-dir", home, "--shell", shell, USER)
        groups = [group.gr_name for group in grp.getgrall() if group.gr_name in GROUPS]
        if groups:
            _command("usermod", "-aG", ",".join(groups), USER)
        return [f"created the user {USER}"]

    def _settings(self) -> list[str]:
        path = self.root / SETTINGS
        if path.exists():
            return []
        _write(path, FIRST_SETTINGS.format(source=self.source), 0o640)
        if self.here:
            shutil.chown(path, "root", USER)
        return [f"wrote {path} with the source {self.source}"]

    def _enable(self) -> list[str]:
        if not Path("/run/systemd/system").is_dir():
            return ["systemd does not run here: nothing was enabled"]
        _command("systemctl", "daemon-reload")
        _command("systemctl", "enable", "edgesparse")
        return ["enabled edgesparse.service"]


def unit_text(target: str) -> str:
    """Return the unit for this installation and a target of `run`. Raises ConfigError if the unit hides either."""
    program = Path(sys.executable).parent / "edgesparse"
    if not program.is_file():
        raise ConfigError(f"found no {program}: install edgesparse with pip into this Python's environment")
    name = target if target == "demo" else str(Path(target).absolute())
    for path, remedy in ((str(program), "python3 -m venv /opt/edgesparse"), (name, "move it to /var/lib/edgesparse")):
        if path.startswith(tuple(f"{folder}/" for folder in HIDDEN)):
            raise ConfigError(f"found {path} in a home folder, which the service cannot read: {remedy}")
        if any(character in path for character in "\"'\\%$\n\t "):
            raise ConfigError(f"found '{path}', needed a path without blanks and any of \" ' \\ % $: rename it")
    text = (resources.files("edgesparse.service") / "edgesparse.service").read_text()
    return text.replace(PACKAGE, name).replace(PROGRAM, str(program))


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file completely or not at all."""
    make_folder(path.parent)
    with replacing(path, mode, synced=True) as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(text.encode())


def _command(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise InstallError(f"needed {command[0]}, which this system does not have") from None
    except subprocess.CalledProcessError as error:
        raise InstallError(f"{shlex.join(command)}: {' '.join(error.stderr.split())}") from None
