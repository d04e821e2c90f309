"""What a device runs, since when, whether it is healthy, and what happened last."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.errors import DeployError
from edgesparse.fleet import health, under_way
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slots import DeploySlot, Root
from edgesparse.version import VERSION

OLD = 10.0
"""Seconds after which a status is outdated; the service writes one per second."""


def status(root: Root, service: ServiceControl) -> dict[str, Any]:
    """Return the device's state, with None for anything that does not exist. `running` and `other`: the two slots'
    records. `service`: its newest status, if recent; else `no_service` says why there is none. `healthy`: whether that
    is good and belongs to the package that should run. `last`: the newest event of the history. `under_way`: the
    journal of a deploy that is in progress or was interrupted, and its `progress` in words while it runs. `damaged`:
    why state files cannot be used.

    Raises DeployError if the folder cannot be read.
    """
    if root.path.exists() and not root.path.is_dir():
        raise DeployError(f"{root.path} is not a folder: name the one that holds the slots")
    if root.path.exists() and not os.access(root.path, os.R_OK | os.X_OK):
        raise DeployError(f"cannot read {root.path}: it belongs to another user: run this with sudo")
    with root.reading():
        return _status(root, service)


def _status(root: Root, service: ServiceControl) -> dict[str, Any]:
    current, journal, history = root.current(), root.journal(), root.history()
    running = _slot(current)
    snapshot = health.read(service.status)
    if snapshot and health.parse(snapshot[1]) is None:
        snapshot = None
    missing = _missing(service.status, snapshot)
    recent = snapshot[1] if snapshot and not missing else None
    return {
        "running": running,
        "other": _slot(root.other()),
        "service": recent,
        "no_service": missing,
        "healthy": _healthy(running, recent) if snapshot else None,
        "last": history[-1] if history else None,
        "under_way": {**(asdict(journal) if journal else {}), **(under_way.read(service.status) or {})} or None,
        "damaged": list(root.damage().values()),
        "edgesparse": VERSION,
        "machine": device.probe().named(),
    }


def _missing(path: Path, snapshot: tuple[int, dict[str, Any]] | None) -> str | None:
    """Return why the service has no recent status; `snapshot`: what the file holds."""
    if snapshot is None:
        try:
            path.stat()
        except OSError as error:
            return f"{path}: {error.strerror}; a running service writes it every second"
        return f"{path} is not a status of a service: name the status.json that 'run --service' writes"
    age = abs(time.time() - snapshot[0] / 1e9)
    return f"{path} is {age:.0f} s old: the service has stopped or hangs" if age >= OLD else None


def _slot(slot: DeploySlot | None) -> dict[str, Any] | None:
    record = slot.record() if slot is not None else None
    return None if slot is None or record is None else {"slot": slot.name, **record.as_dict()}


def _healthy(running: dict[str, Any] | None, service: dict[str, Any] | None) -> bool:
    if service is None or running is None:
        return False
    return bool(service.get("healthy")) and service.get("package") == running["build_id"]
