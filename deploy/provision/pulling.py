"""Pulling: where a device polls for newer bundles, the root that it trusts, and the timer that polls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from .account import SETTINGS, UserFile, place, read_text
from .software import HERE
from .system import WRONG_USE, Change, StepFailed, System

ENVIRONMENT, ANCHOR = f"{SETTINGS}/pull.env", f"{SETTINGS}/root.json"
SERVICE, TIMER = "edgesparse-pull.service", "edgesparse-pull.timer"
UNITS = "/etc/systemd/system"
WANTS = f"{UNITS}/timers.target.wants/{TIMER}"
SECRET = 0o600
REMEDY = f"systemctl status {TIMER}; journalctl -u {SERVICE}"


def pull(system: System, environment: Path | None, anchor: Path | None, force: bool) -> Iterator[Change]:
    """Install what `fleet pull` reads and the units that run it. Without options, a device that pulls keeps doing so
    with this version's units.
    """
    if environment is None and anchor is None and not system.path(ENVIRONMENT).exists():
        return
    files = dict[str, UserFile]()
    if environment is not None:
        files[f"install {environment.name}"] = UserFile(ENVIRONMENT, _environment(environment), SECRET)
    if anchor is not None:
        files[f"trust the root {anchor.name}"] = UserFile(ANCHOR, _root(anchor))
    for name, remedy in ((ENVIRONMENT, "--pull FILE"), (ANCHOR, "--anchor FILE")):
        if not system.path(name).exists() and all(file.name != name for file in files.values()):
            raise StepFailed(f"found no {name}", f"pass {remedy}", WRONG_USE)
    # A list: each file is checked before the first is installed.
    yield from [change for what, file in files.items() for change in place(system, file, force, what)]
    if system.path(ENVIRONMENT).is_file() and system.path(ENVIRONMENT).stat().st_mode & 0o077:
        yield Change(f"give {ENVIRONMENT} mode {SECRET:o}", lambda: system.protect(ENVIRONMENT, SECRET, ""))
    yield from _units(system)


def _units(system: System) -> Iterator[Change]:
    texts = {name: read_text(HERE / "deploy" / name, "the checkout") for name in (SERVICE, TIMER)}
    changed = {name: text for name, text in texts.items() if system.read(f"{UNITS}/{name}") != text}
    if changed:
        yield Change(f"write {' and '.join(changed)}", lambda: _write(system, changed))
    if not system.path(WANTS).is_symlink():
        now = ("--now",) if system.booted else ()
        yield Change(f"enable {TIMER}", lambda: system.run("systemctl", "enable", *now, TIMER, remedy=REMEDY))


def _write(system: System, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        system.write(f"{UNITS}/{name}", text)
    if system.booted:
        system.run("systemctl", "daemon-reload", remedy=REMEDY)


def end(system: System) -> Iterator[Change]:
    """Remove what `pull` installed. What the device has seen of the metadata stays, so that nothing older is accepted
    should it pull again.
    """
    if system.path(WANTS).is_symlink():
        now = ("--now",) if system.booted else ()
        yield Change(f"disable {TIMER}", lambda: system.run("systemctl", "disable", *now, TIMER, remedy=REMEDY))
    names = (f"{UNITS}/{TIMER}", f"{UNITS}/{SERVICE}", ENVIRONMENT, ANCHOR)
    present = [name for name in names if system.path(name).exists()]
    if present:
        yield Change(f"remove {', '.join(present)}", lambda: _remove(system, present))


def _remove(system: System, names: list[str]) -> None:
    for name in names:
        system.remove(name)
    if system.booted:
        system.run("systemctl", "daemon-reload", remedy=REMEDY)


def _environment(file: Path) -> str:
    """Return the text of --pull, which may hold secrets: it is in no message."""
    text = read_text(file, "--pull")
    if not re.search(r"^EDGESPARSE_PULL=[\"']?https://", text, re.M):
        raise StepFailed(f"{file} has no line EDGESPARSE_PULL=https://...", "name the repository's address", WRONG_USE)
    return text


def _root(file: Path) -> str:
    text = read_text(file, "--anchor")
    try:
        kind = json.loads(text)["signed"]["_type"]
    except (ValueError, TypeError, KeyError, RecursionError):
        kind = ""
    if kind != "root":
        raise StepFailed(f"{file} is no root of a repository", "pass its metadata/1.root.json", WRONG_USE)
    return text
