"""`service install` and `service uninstall`: units, user and settings, for edgesparse installed by pip."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

from edgesparse.errors import ConfigError, InstallError
from edgesparse.files import make_folder, replacing

USER = "edgesparse"
GROUPS = ("video", "render")
UNIT, POLL, TIMER = "edgesparse.service", "edgesparse-pull.service", "edgesparse-pull.timer"
UNITS, SETTINGS = "etc/systemd/system", "etc/edgesparse/device.yaml"
ENVIRONMENT, ANCHOR, TRUSTED = "etc/edgesparse/pull.env", "etc/edgesparse/root.json", "etc/edgesparse/trusted"
STATE = "var/lib/edgesparse"
PROGRAM, PACKAGE = "/opt/edgesparse/bin/edgesparse", "/var/lib/edgesparse/current/package"
"""The paths in the units, which are replaced by this installation's."""
HIDDEN = ("/home", "/root", "/run/user")
"""Folders that the units hide (ProtectHome)."""
SHARED = 0o644
FIRST_SETTINGS = """\
# Cameras and outputs of this device. After a change: sudo systemctl reload edgesparse
run:
  source: {source}
service:
  web: {{port: 8080}}
"""


@dataclass(frozen=True)
class Change:
    """What is missing on a system, and the function that changes it."""

    what: str
    make: Callable[[], object]


@dataclass(frozen=True)
class Pull:
    """What a device that pulls reads: the repository's address and secrets, and the root that it trusts at first."""

    environment: Path
    anchor: Path


@dataclass(frozen=True)
class Installation:
    """What is installed, and where. If `root` is not /, it is an image, in which no program is run."""

    target: str
    source: str
    root: Path = Path("/")
    force: bool = False
    pull: Pull | None = None

    def changes(self) -> list[Change]:
        """Return what has to change; nothing is written before the last was determined.

        Raises ConfigError for what would not work or would be overwritten.
        """
        if self.pull is not None and self.target != PACKAGE:
            raise ConfigError(f"found the target {self.target}, needed {PACKAGE} to pull: it is what a deploy switches")
        units = list(self._file(f"{UNITS}/{UNIT}", unit_text(UNIT, self.target)))
        units += self._pull() if self.pull is not None else ()
        return [*self._user(), *self._folder(), *self._settings(), *units, *self._enable(bool(units))]

    def _pull(self) -> Iterator[Change]:
        assert self.pull is not None
        environment, anchor = _read(self.pull.environment), _read(self.pull.anchor)
        if not re.search(r"^EDGESPARSE_PULL=[\"']?https://", environment, re.M):
            raise ConfigError(f"{self.pull.environment}: needed a line EDGESPARSE_PULL=https://...")
        if not _is_root(anchor):
            raise ConfigError(f"{self.pull.anchor}: needed metadata/1.root.json of a repository")
        yield from self._file(ENVIRONMENT, environment, 0o600)
        yield from self._file(ANCHOR, anchor)
        for name in (POLL, TIMER):
            yield from self._file(f"{UNITS}/{name}", unit_text(name, self.target))

    def _file(self, name: str, text: str, mode: int = SHARED) -> Iterator[Change]:
        """A file that is missing or differs; the latter only with `force`."""
        path = self.root / name
        present = path.read_bytes() if path.exists() else None
        same = present == text.encode()
        if same and path.stat().st_mode & 0o777 & ~mode == 0:
            return
        if present is not None and not same and not self.force:
            raise ConfigError(f"{path} exists and differs: pass --force to replace it")
        yield Change(f"write {path}", lambda: _write(path, text, mode))

    def _user(self) -> Iterator[Change]:
        if _here(self.root) and not _has_user():
            yield Change(f"create the user {USER}", _create_user)

    def _folder(self) -> Iterator[Change]:
        """The slots of a device that pulls, which may poll before its service has ever run."""
        path = self.root / STATE
        if self.pull is not None and not path.exists():
            yield Change(f"create {path}", lambda: _make_state(path))

    def _settings(self) -> Iterator[Change]:
        path = self.root / SETTINGS
        if not path.exists():
            text = FIRST_SETTINGS.format(source=self.source)
            what = f"write {path} with the source {self.source}"
            yield Change(what, lambda: _write(path, text, 0o640, _group() if _here(self.root) else -1))

    def _enable(self, changed: bool) -> Iterator[Change]:
        """Enable what starts at boot. A timer starts at once."""
        if not _booted(self.root):
            return
        if changed:
            yield Change("reload systemd", partial(_command, "systemctl", "daemon-reload"))
        yield Change(f"enable {UNIT}", partial(_command, "systemctl", "enable", UNIT))
        if self.pull is not None:
            yield Change(f"enable and start {TIMER}", partial(_command, "systemctl", "enable", "--now", TIMER))

    def notes(self) -> list[str]:
        """Return what is not installed here, and is needed."""
        notes = []
        if _here(self.root) and self.target != "demo" and not Path(self.target).exists():
            notes.append(f"there is no {self.target} yet: the service does not start until there is")
        if _here(self.root) and not _booted(self.root):
            notes.append("systemd does not run here: nothing was enabled")
        if self.pull is not None and not any((self.root / TRUSTED).glob("*.pub")):
            notes.append(
                f"no key is trusted yet, so no bundle will be accepted: copy NAME.pub into {self.root / TRUSTED}"
            )
        return notes


def removals(root: Path) -> list[Change]:
    """Return what `service uninstall` does: stop and remove the units. Settings, keys, engines and the user stay."""
    present = [name for name in (TIMER, POLL, UNIT) if (root / UNITS / name).exists()]
    disable = ("systemctl", "disable", "--now")
    stops = [Change(f"stop and disable {name}", partial(_command, *disable, name)) for name in present]
    removes = [Change(f"remove {root / UNITS / name}", (root / UNITS / name).unlink) for name in present]
    if not _booted(root) or not present:
        return removes
    return [*stops, *removes, Change("reload systemd", partial(_command, "systemctl", "daemon-reload"))]


def refuse_without_root(root: Path) -> None:
    """Raise InstallError if changing this system needs root."""
    if _here(root) and os.geteuid() != 0:
        raise InstallError(f"needed root to change /{UNITS}: sudo {shlex.join(sys.argv)}")


def unit_text(unit: str, target: str) -> str:
    """Return a unit for this installation and a target of `run`. Raises ConfigError if the unit hides either."""
    program = Path(sys.executable).parent / "edgesparse"
    if not program.is_file():
        raise ConfigError(f"found no {program}: install edgesparse with pip into this Python's environment")
    name = target if target == "demo" else str(Path(target).absolute())
    for path, remedy in ((str(program), "python3 -m venv /opt/edgesparse"), (name, "move it to /var/lib/edgesparse")):
        if path.startswith(tuple(f"{folder}/" for folder in HIDDEN)):
            raise ConfigError(f"found {path} in a home folder, which the service cannot read: {remedy}")
        if any(character in path for character in "\"'\\%$\n\t "):
            raise ConfigError(f"found '{path}', needed a path without blanks and any of \" ' \\ % $: rename it")
    text = (resources.files("edgesparse.service") / unit).read_text()
    return text.replace(PACKAGE, name).replace(PROGRAM, str(program))


def _here(root: Path) -> bool:
    return root == Path("/")


def _booted(root: Path) -> bool:
    return _here(root) and Path("/run/systemd/system").is_dir()


def _has_user() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _group() -> int:
    """Return the group of the user, which need not have its name."""
    return pwd.getpwnam(USER).pw_gid


def _create_user() -> None:
    _command("useradd", "--system", "--user-group", "--home-dir", f"/{STATE}", "--shell", "/usr/sbin/nologin", USER)
    groups = [group.gr_name for group in grp.getgrall() if group.gr_name in GROUPS]
    if groups:
        _command("usermod", "-aG", ",".join(groups), USER)


def _make_state(path: Path) -> None:
    make_folder(path, 0o750)
    if _has_user():
        shutil.chown(path, USER, _group())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from None


def _is_root(text: str) -> bool:
    try:
        return bool(json.loads(text)["signed"]["_type"] == "root")
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _write(path: Path, text: str, mode: int, group: int = -1) -> None:
    """Write a file completely or not at all, with its mode and group from the start."""
    make_folder(path.parent)
    with replacing(path, 0o600, synced=True) as file:
        os.fchown(file.fileno(), -1, group)
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(text.encode())


def _command(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise InstallError(f"needed {command[0]}, which this system does not have") from None
    except subprocess.CalledProcessError as error:
        raise InstallError(f"{shlex.join(command)}: {' '.join(error.stderr.split())}") from None
