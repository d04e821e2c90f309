"""The service's account and files: user, groups, device nodes, folders, keys, settings, unit."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .software import HERE, STAMP
from .system import REFUSED, WRONG_USE, Change, StepFailed, System

USER = "edgesparse"
GROUPS = ("video", "render")
STATE, SETTINGS = "/var/lib/edgesparse", "/etc/edgesparse"
UDEV = "/etc/udev/rules.d/99-edgesparse.rules"
PRIVATE = 0o640
UNIT = "/etc/systemd/system/edgesparse.service"

NODES = ("nvmap", "nvhost-*", "nvgpu/*/*", "nvidia[0-9]*", "nvidiactl", "dri/renderD*", "video[0-9]*")
"""Nodes under /dev that TensorRT and cameras open. On JetPack the groups above own them; elsewhere they may not."""

DEVICE = """\
# This device's cameras and outputs. The bundle's recipe is the same on every device; this file is not.
# docs/reference/settings.md lists every key. After a change: sudo systemctl reload edgesparse
run:
  source: {source}
"""


def user(system: System) -> Iterator[Change]:
    """Create a user without a shell, in the groups that may open the GPU and the cameras."""
    remedy = "run it as root: sudo scripts/provision"
    if system.user(USER) is None:
        command = ("useradd", "--system", "--user-group", "--home-dir", STATE, "--shell", "/usr/sbin/nologin", USER)
        yield Change(f"create the user {USER}", lambda: system.run(*command, remedy=remedy))
    absent = [name for name in GROUPS if system.has_group(name) and name not in system.groups(USER)]
    if absent:
        names = ",".join(absent)
        yield Change(f"add {USER} to {names}", lambda: system.run("usermod", "-aG", names, USER, remedy=remedy))


def udev(system: System) -> Iterator[Change]:
    """Add a rule for every device node that the user's groups cannot open; JetPack needs none."""
    dev = system.path("/dev")
    nodes = sorted({node for pattern in NODES for node in dev.glob(pattern)})
    closed = [f"/dev/{node.relative_to(dev)}" for node in nodes if not _open_to_groups(node)]
    rules = system.read(UDEV)
    new = [name for name in closed if f'"{name}"' not in rules]
    if new:
        head = rules or "# Written by edgesparse's scripts/provision: nodes that the user edgesparse opens.\n"
        text = head + "".join(f'ENV{{DEVNAME}}=="{name}", GROUP="video", MODE="0660"\n' for name in new)
        yield Change(f"give {', '.join(new)} to the group video by {UDEV}", lambda: _write_rules(system, text, new))


def _open_to_groups(node: Path) -> bool:
    status = node.stat()
    everybody, group = 0o006, stat.S_IRGRP | stat.S_IWGRP
    if status.st_mode & everybody == everybody:
        return True
    try:
        return status.st_mode & group == group and node.group() in GROUPS
    except KeyError:
        return False


def _write_rules(system: System, text: str, nodes: list[str]) -> None:
    system.write(UDEV, text)
    if system.booted:
        remedy = "restart the board to apply the rules"
        system.run("udevadm", "control", "--reload", remedy=remedy)
        system.run("udevadm", "trigger", *(f"--name-match={node}" for node in nodes), remedy=remedy)


def folders(system: System) -> Iterator[Change]:
    """Create the folders of bundles and engines, of settings and of trusted keys."""
    for name, mode, owner in ((STATE, 0o750, USER), (SETTINGS, 0o755, "root"), (f"{SETTINGS}/trusted", 0o755, "root")):
        path = system.path(name)
        change = partial(system.make_folder, name, mode, owner)
        if not path.is_dir():
            yield Change(f"create {name}", change)
        elif system.owner(path) != owner or _differs(path.stat().st_mode & 0o777, mode, owner):
            yield Change(f"give {name} to {owner}, mode {mode:o}", change)


def _differs(current: int, mode: int, owner: str) -> bool:
    """Whether a folder's mode has to change. One owned by root may be stricter."""
    return bool(current & 0o022) if owner == "root" else current != mode


def keys(system: System, files: list[Path], force: bool) -> Iterator[Change]:
    """Install public keys whose bundles this device accepts. Other keys are kept."""
    for file in files:
        text = read_text(file, "--key")
        if "PRIVATE" in text:
            raise StepFailed(
                f"{file} is a private key, which must stay where bundles are signed", "pass its .pub file", WRONG_USE
            )
        if "-----BEGIN PUBLIC KEY-----" not in text:
            raise StepFailed(f"{file} is not a public key", "print it with edgesparse keys public", WRONG_USE)
        name = f"{SETTINGS}/trusted/{file.stem}.pub"
        yield from place(system, UserFile(name, text), force, f"trust {file.name}")
    if not any(system.path(f"{SETTINGS}/trusted").glob("*.pub")) and not files:
        system.facts["note"] = "no key is trusted yet, so no bundle will be accepted: pass --key NAME.pub"


def settings(system: System, file: Path | None, force: bool) -> Iterator[Change]:
    """Install this device's settings: the file in --settings, else one with the first camera. It contains camera
    passwords, so only root and the service can read it.
    """
    name = f"{SETTINGS}/device.yaml"
    path = system.path(name)
    if file is not None:
        settings_file = UserFile(name, read_text(file, "--settings"), PRIVATE, USER)
        yield from place(system, settings_file, force, f"install the settings of {file.name}")
    elif not path.exists():
        source = "csi://0" if system.facts.get("l4t") and not _usb_camera(system) else "/dev/video0"
        text = DEVICE.format(source=source)
        yield Change(f"write {name} with the camera {source}", lambda: system.write(name, text, PRIVATE, USER))
    if path.is_file() and path.stat().st_mode & 0o007:
        yield Change(f"give {name} mode {PRIVATE:o}", lambda: system.protect(name, PRIVATE, USER))


def _usb_camera(system: System) -> bool:
    """Whether /dev/video0 is a USB camera and not a CSI sensor, which is opened through Argus."""
    driver = system.output("udevadm", "info", "--query=property", "--name=/dev/video0") or ""
    return "ID_BUS=usb" in driver


def unit(system: System) -> Iterator[Change]:
    """Install and enable the service's unit, which starts at boot."""
    text = read_text(HERE / "deploy" / "edgesparse.service", "the checkout")
    remedy = "systemctl status edgesparse; journalctl -u edgesparse"
    if system.read(UNIT) != text:
        yield Change("write edgesparse.service", lambda: _write_unit(system, text, remedy))
    targets = re.findall(r"^WantedBy=(\S+)", text, re.M)
    if not all(
        system.path(f"/etc/systemd/system/{target}.wants/edgesparse.service").is_symlink() for target in targets
    ):
        yield Change(
            "enable edgesparse.service", lambda: system.run("systemctl", "enable", "edgesparse", remedy=remedy)
        )


def _write_unit(system: System, text: str, remedy: str) -> None:
    system.write(UNIT, text)
    if system.booted:
        system.run("systemctl", "daemon-reload", remedy=remedy)


def restart(system: System) -> Iterator[Change]:
    """Restart a service that was started before its software, unit or settings changed."""
    if not system.booted or system.output("systemctl", "is-active", "edgesparse") is None:
        return
    command = ("systemctl", "show", "edgesparse", "--property=ActiveEnterTimestamp", "--value", "--timestamp=unix")
    since = re.match(r"@(\d+)", system.output(*command) or "")
    files = [system.path(name) for name in (STAMP, UNIT, f"{SETTINGS}/device.yaml")]
    changed = max((int(file.stat().st_mtime) for file in files if file.exists()), default=0)
    if since and int(since[1]) < changed:
        remedy = "systemctl status edgesparse; journalctl -u edgesparse"
        yield Change(
            "restart edgesparse.service, which runs the previous version",
            lambda: system.run("systemctl", "restart", "edgesparse", remedy=remedy),
        )


def read_text(file: Path, option: str) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StepFailed(f"cannot read {file} ({option}): {error}", "name an existing file", WRONG_USE) from None


@dataclass(frozen=True)
class UserFile:
    """A file to install from a user's file: its name, contents, mode and group."""

    name: str
    text: str
    mode: int = 0o644
    group: str = ""


def place(system: System, file: UserFile, force: bool, what: str) -> Iterator[Change]:
    """Install a user's file; a different file of that name is not overwritten without --force."""
    existing = system.read(file.name)
    if existing == file.text:
        return
    if existing and not force:
        raise StepFailed(f"{file.name} exists and differs", "--force overwrites it", REFUSED)
    yield Change(what, lambda: system.write(file.name, file.text, file.mode, file.group))
