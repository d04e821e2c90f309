"""What runs on a device, since when, how it is, and what happened last."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from edgesparse import device
from edgesparse.errors import DeployError
from edgesparse.fleet import health
from edgesparse.fleet.restart import Service
from edgesparse.fleet.slots import Root, Slot
from edgesparse.version import VERSION

OLD = 10.0
"""Seconds after which a status that the service writes each second is no longer true."""


def status(root: Root, service: Service) -> dict[str, Any]:
    """`running` and `other`: the two slots' records; `service`: what it says of itself, lately; `healthy`: whether
    that is good, and of the package that is to run; `last`: the end of the history; `under_way`: the journal of a
    deploy that goes on or was interrupted. What there is none of is None.

    Raises DeployError where the folder cannot be read.
    """
    if root.path.exists() and not os.access(root.path, os.R_OK | os.X_OK):
        raise DeployError(f"cannot read {root.path}: it belongs to another user: run this with sudo")
    current, journal, history = root.current(), root.journal(), root.history()
    running = _slot(current)
    found = health.read(service.status)
    says = found[1] if found and abs(time.time() - found[0] / 1e9) < OLD else None
    return {
        "running": running,
        "other": _slot(root.other()),
        "service": says,
        "healthy": _healthy(running, says) if found else None,
        "last": history[-1] if history else None,
        "under_way": asdict(journal) if journal else None,
        "edgesparse": VERSION,
        "machine": device.probe().named(),
    }


def _slot(slot: Slot | None) -> dict[str, Any] | None:
    record = slot.record() if slot is not None else None
    return None if slot is None or record is None else {"slot": slot.name, **record.as_dict()}


def _healthy(running: dict[str, Any] | None, says: dict[str, Any] | None) -> bool:
    if says is None or running is None:
        return False
    return bool(says.get("healthy")) and says.get("package") == running["build_id"]
