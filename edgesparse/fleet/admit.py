"""Whether a bundle whose signature holds may come onto this device: its key, its version, what it needs, the disk."""

from __future__ import annotations

import re
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path

from edgesparse import device
from edgesparse.backends import backend
from edgesparse.config import Need
from edgesparse.errors import BackendUnavailable, DeployError, SignatureError
from edgesparse.fleet.bundle import Head, Manifest, order
from edgesparse.fleet.slots import SLOTS, Record, Root
from edgesparse.version import VERSION

DAY = 86400
SPARE = 20_000_000
"""Bytes that are to stay free when all is done."""
BUILD = 11
"""How many times the model's size a build has on the disk at once: what runs now, some six ONNX files, and an engine a
candidate, of which most are FP16 or INT8."""


def admit(head: Head, root: Root, running: Record | None, downgrade: bool, fetch: int = 0) -> str:
    """Raises SignatureError for an expired key, DeployError for an older version or a full disk, BackendUnavailable for
    what this device lacks. Returns what should be known about the clock, or nothing. `fetch`: bytes still to come.
    """
    note = _hold_key(head, root)
    _hold_version(head.manifest, running, downgrade)
    for what, least in head.manifest.deploy.needs.items():
        _hold_need(what, least)
    _hold_disk(head.manifest, root, fetch)
    return note


def _hold_key(head: Head, root: Root) -> str:
    """A board without a battery wakes up years ago: then the newest time that trusted bundles brought counts instead.
    A clock that is ahead cannot be told from a true one, so it ends a key too early, never too late."""
    records = [record for name in SLOTS if (record := root.slot(name).record()) is not None]
    known = max([head.manifest.time, *(record.time for record in records)])
    clock = time.time()
    now = datetime.fromtimestamp(max(known, clock), timezone.utc)
    said = f"the clock here says {datetime.fromtimestamp(clock, timezone.utc):%Y-%m-%d}"
    if head.key.expired(now):
        raise SignatureError(
            f"the key {head.key} that signed it expired on {head.key.expires} ({said}): sign it with its successor, or "
            "set the clock if that is wrong"
        )
    behind = clock < known - DAY
    return f"{said}, which is before {now:%Y-%m-%d}, when a bundle was made: set it" if behind else ""


def _hold_version(manifest: Manifest, running: Record | None, downgrade: bool) -> None:
    if running is None or downgrade or manifest.newer_than(running.version):
        return
    raise DeployError(
        f"found version {manifest.version}, needed one after {running.version}, which runs: pass --allow-downgrade to "
        "go back"
    )


def _hold_need(what: Need, least: str) -> None:
    if what == "edgesparse":
        found, mend = VERSION, "update edgesparse"
    elif what == "l4t":
        found, mend = device.probe().l4t, "flash a newer JetPack"
    else:
        there = backend(what).probe()
        found, mend = there.version if there.ok else "", there.remedy or f"update {what}"
    if not found or _numbers(found) < _numbers(least):
        raise BackendUnavailable(f"found {what} {found or 'none'}, needed {least} or newer: {mend}")


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return order(found[0]) if found else ()


def _hold_disk(manifest: Manifest, root: Root, fetch: int) -> None:
    model = sum(file.size for file in manifest.files if file.name.startswith("model/"))
    needed = fetch + manifest.size + BUILD * model + SPARE
    there = next(folder for folder in (root.path, *root.path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free + _size(root.other().folder)
    if free < needed:
        raise DeployError(
            f"no space in {root.path}: needed {needed / 1e6:.0f} MB, found {free / 1e6:.0f} MB with the unused slot "
            "emptied: free some"
        )


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
