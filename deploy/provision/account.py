"""Who runs edgesparse and what that user may open: account, groups, device nodes, folders, keys, settings, unit."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .software import HERE, STAMP
from .system import REFUSED, WRONG_USE, Change, Failed, System

USER = "edgesparse"
GROUPS = ("video", "render")
STATE, SETTINGS = "/var/lib/edgesparse", "/etc/edgesparse"
UDEV = "/etc/udev/rules.d/99-edgesparse.rules"
UNIT = "/etc/systemd/system/edgesparse.service"

NODES = ("nvmap", "nvhost-*", "nvgpu/*/*", "nvidia[0-9]*", "nvidiactl", "dri/renderD*", "video[0-9]*")
"""What TensorRT and cameras open under /dev. JetPack gives all of it to the groups above; other images may not."""

DEVICE = """\
# This device: its cameras and where detections go. The bundle's recipe is the same on every device; this file is not.
# docs/guide/service.md has every key. After a change: sudo systemctl reload edgesparse
run:
  source: {source}
"""


def user(system: System) -> Iterator[Change]:
    """A user of its own without a shell, in the groups that may open the GPU and the cameras."""
    remedy = "is this run as root? sudo scripts/provision"
    if system.user(USER) is None:
        command = ("useradd", "--system", "--user-group", "--home-dir", STATE, "--shell", "/usr/sbin/nologin", USER)
        yield Change(f"make the user {USER}", lambda: system.run(*command, remedy=remedy))
    absent = [name for name in GROUPS if system.has_group(name) and name not in system.groups(USER)]
    if absent:
        names = ",".join(absent)
        yield Change(f"add {USER} to {names}", lambda: system.run("usermod", "-aG", names, USER, remedy=remedy))


def udev(system: System) -> Iterator[Change]:
    """A rule for every device node that the user's groups could not open; none where JetPack's own rules do."""
    dev = system.path("/dev")
    nodes = sorted({node for pattern in NODES for node in dev.glob(pattern)})
    closed = [f"/dev/{node.relative_to(dev)}" for node in nodes if not _open_to_groups(node)]
    rules = system.read(UDEV)
    new = [name for name in closed if f'"{name}"' not in rules]
    if new:
        head = rules or "# Written by edgesparse's scripts/provision: what the user edgesparse must open.\n"
        text = head + "".join(f'ENV{{DEVNAME}}=="{name}", GROUP="video", MODE="0660"\n' for name in new)
        yield Change(f"give {', '.join(new)} to the group video by {UDEV}", lambda: _write_rules(system, text, new))


def _open_to_groups(node: Path) -> bool:
    found = node.stat()
    everybody, group = 0o006, stat.S_IRGRP | stat.S_IWGRP
    if found.st_mode & everybody == everybody:
        return True
    try:
        return found.st_mode & group == group and node.group() in GROUPS
    except KeyError:
        return False


def _write_rules(system: System, text: str, nodes: list[str]) -> None:
    system.write(UDEV, text)
    if system.booted:
        remedy = "restart the board: the rules hold from then on"
        system.run("udevadm", "control", "--reload", remedy=remedy)
        system.run("udevadm", "trigger", *(f"--name-match={node}" for node in nodes), remedy=remedy)


def folders(system: System) -> Iterator[Change]:
    """Where bundles and engines go, and where settings and trusted keys are."""
    for name, mode, owner in ((STATE, 0o750, USER), (SETTINGS, 0o755, ""), (f"{SETTINGS}/trusted", 0o755, "")):
        path = system.path(name)
        if not path.is_dir():
            yield Change(f"make {name}", partial(_folder, system, path, mode, owner))
        elif owner and (system.owner(path) != owner or path.stat().st_mode & 0o777 != mode):
            yield Change(f"give {name} to {owner}, mode {mode:o}", partial(_folder, system, path, mode, owner))


def _folder(system: System, path: Path, mode: int, owner: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if owner:
        system.give(path, owner)


def keys(system: System, files: list[Path], force: bool) -> Iterator[Change]:
    """The public keys whose bundles this device takes. Keys that are there already stay."""
    for file in files:
        text = _text(file, "--key")
        if "PRIVATE" in text:
            raise Failed(
                f"{file} is a private key, which stays where bundles are made", "pass its .pub file", WRONG_USE
            )
        if "-----BEGIN PUBLIC KEY-----" not in text:
            raise Failed(f"{file} is no public key", "edgesparse keys public makes one", WRONG_USE)
        name = f"{SETTINGS}/trusted/{file.stem}.pub"
        yield from _place(system, text, name, force, f"trust {file.name}")
    if not any(system.path(f"{SETTINGS}/trusted").glob("*.pub")) and not files:
        system.found["note"] = "no key is trusted yet, so no bundle will be taken: pass --key NAME.pub"


def settings(system: System, file: Path | None, force: bool) -> Iterator[Change]:
    """This device's settings: the file that was given, else one that starts with the first camera."""
    name = f"{SETTINGS}/device.yaml"
    if file is not None:
        yield from _place(system, _text(file, "--settings"), name, force, f"take the settings of {file.name}")
    elif not system.path(name).exists():
        source = "csi://0" if system.found.get("l4t") and not _usb_camera(system) else "/dev/video0"
        yield Change(f"write {name} with the camera {source}", lambda: system.write(name, DEVICE.format(source=source)))


def _usb_camera(system: System) -> bool:
    """Whether /dev/video0 is no CSI sensor: those belong to NVIDIA's capture driver and are opened through Argus."""
    driver = system.ask("udevadm", "info", "--query=property", "--name=/dev/video0") or ""
    return "ID_BUS=usb" in driver


def unit(system: System) -> Iterator[Change]:
    """The service, enabled: it starts with the board, and now if a package is there."""
    text = _text(HERE / "deploy" / "edgesparse.service", "the checkout")
    remedy = "systemctl status edgesparse; journalctl -u edgesparse"
    if system.read(UNIT) != text:
        yield Change("write edgesparse.service", lambda: _write_unit(system, text, remedy))
    wanted = re.findall(r"^WantedBy=(\S+)", text, re.M)
    if not all(system.path(f"/etc/systemd/system/{target}.wants/edgesparse.service").is_symlink() for target in wanted):
        yield Change(
            "enable edgesparse.service", lambda: system.run("systemctl", "enable", "edgesparse", remedy=remedy)
        )


def _write_unit(system: System, text: str, remedy: str) -> None:
    system.write(UNIT, text)
    if system.booted:
        system.run("systemctl", "daemon-reload", remedy=remedy)


def restart(system: System) -> Iterator[Change]:
    """A service that runs since before its software, unit or settings changed is started anew."""
    if not system.booted or system.ask("systemctl", "is-active", "edgesparse") is None:
        return
    asked = ("systemctl", "show", "edgesparse", "--property=ActiveEnterTimestamp", "--value", "--timestamp=unix")
    since = re.match(r"@(\d+)", system.ask(*asked) or "")
    files = [system.path(name) for name in (STAMP, UNIT, f"{SETTINGS}/device.yaml")]
    changed = max((int(file.stat().st_mtime) for file in files if file.exists()), default=0)
    if since and int(since[1]) < changed:
        remedy = "systemctl status edgesparse; journalctl -u edgesparse"
        yield Change(
            "restart edgesparse.service, which runs what was before",
            lambda: system.run("systemctl", "restart", "edgesparse", remedy=remedy),
        )


def _text(file: Path, option: str) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"cannot read {file} ({option}): {error}", "name a file that is there", WRONG_USE) from None


def _place(system: System, text: str, name: str, force: bool, what: str) -> Iterator[Change]:
    """A file of the user's; another one of that name is not overwritten without --force."""
    there = system.read(name)
    if there == text:
        return
    if there and not force:
        raise Failed(f"{name} is another than the one given", "--force overwrites it", REFUSED)
    yield Change(what, lambda: system.write(name, text))
