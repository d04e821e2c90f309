"""Whether a bundle with a valid signature may be deployed here: key, version, requirements, disk space."""

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
from edgesparse.fleet.bundle import BundleManifest, Head, order
from edgesparse.fleet.keys import PublicKey
from edgesparse.fleet.slots import SLOTS, Root
from edgesparse.fleet.state import SlotRecord
from edgesparse.version import VERSION

DAY = 86400
SPARE = 20_000_000
"""Bytes that must stay free after a deploy."""
BUILD = 11
"""A build's peak disk usage as a multiple of the model's size: the running package, about six ONNX files, and an engine
per candidate, most of them FP16 or INT8."""


def admit(head: Head, root: Root, running: SlotRecord | None, downgrade: bool, fetch: int = 0) -> str:
    """Check all of them. Returns a warning about the clock, or an empty string. `fetch`: bytes still to be fetched.

    Raises SignatureError for an expired key, DeployError for an older version or a full disk, BackendUnavailable for
    what this device lacks.
    """
    note = refuse_expired(head.key, head.manifest, root)
    _check_version(head.manifest, running, downgrade)
    for what, least in head.manifest.deploy.needs.items():
        _check_need(what, least)
    _check_disk(head.manifest, root, fetch)
    return note


def refuse_expired(key: PublicKey, manifest: BundleManifest, root: Root) -> str:
    """Refuse an expired key that signed this bundle or its delta. Returns a warning about the clock.

    A board without a clock battery starts years in the past: then the newest time of a trusted bundle counts instead. A
    clock that is ahead cannot be detected, so it ends a key too early, never too late. Raises SignatureError.
    """
    records = [record for name in SLOTS if (record := root.slot(name).record()) is not None]
    known = max([manifest.time, *(record.time for record in records)])
    clock = time.time()
    now = datetime.fromtimestamp(max(known, clock), timezone.utc)
    reading = f"the clock here says {datetime.fromtimestamp(clock, timezone.utc):%Y-%m-%d}"
    if key.expired(now):
        raise SignatureError(
            f"the key {key} that signed it expired on {key.expires} ({reading}): sign it with its successor, "
            "or set the clock if that is wrong"
        )
    if clock >= known - DAY:
        return ""
    return f"{reading}, which is before {now:%Y-%m-%d}, when a trusted bundle was created: set the clock"


def _check_version(manifest: BundleManifest, running: SlotRecord | None, downgrade: bool) -> None:
    if running is None or downgrade or manifest.newer_than(running.version):
        return
    raise DeployError(
        f"found version {manifest.version}, needed one newer than {running.version}, which is running: pass "
        "--allow-downgrade to go back"
    )


def _check_need(what: Need, least: str) -> None:
    if what == "edgesparse":
        version, fix = VERSION, "update edgesparse"
    elif what == "l4t":
        version, fix = device.probe().l4t, "flash a newer JetPack"
    else:
        available = backend(what).probe()
        version, fix = available.version if available.ok else "", available.remedy or f"update {what}"
    if not version or _numbers(version) < _numbers(least):
        raise BackendUnavailable(f"found {what} {version or 'none'}, needed {least} or newer: {fix}")


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return order(match[0]) if match else ()


def _check_disk(manifest: BundleManifest, root: Root, fetch: int) -> None:
    model = sum(file.size for file in manifest.files if file.name.startswith("model/"))
    needed = fetch + manifest.size + BUILD * model + SPARE
    existing = next(folder for folder in (root.path, *root.path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free + _size(root.other().folder)
    if free < needed:
        raise DeployError(
            f"no space in {root.path}: needed {needed / 1e6:.0f} MB, found {free / 1e6:.0f} MB after "
            "emptying the unused slot: free some"
        )


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
