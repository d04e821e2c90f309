"""What runs on a device, since when, how it is, and what happened last."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgesparse import device
from edgesparse.fleet import health
from edgesparse.fleet.restart import Service
from edgesparse.fleet.slots import Root, Slot
from edgesparse.version import VERSION

OLD = 10.0
"""Seconds by which a status may be older than the clock says before nobody seems to write it."""


def status(root: Root, service: Service) -> dict[str, Any]:
    """`running` and `other`: the two slots' records; `service`: what it says of itself; `last`: the end of the history;
    `under_way`: the journal of a deploy that goes on or was interrupted. What there is none of is None."""
    current, journal, history = root.current(), root.journal(), root.history()
    running = _slot(current)
    says = service.says()
    return {
        "running": running,
        "other": _slot(root.other()),
        "service": says,
        "healthy": _healthy(running, says),
        "last": history[-1] if history else None,
        "under_way": asdict(journal) if journal else None,
        "edgesparse": VERSION,
        "machine": device.probe().named(),
    }


def _slot(slot: Slot | None) -> dict[str, Any] | None:
    record = slot.record() if slot is not None else None
    return None if slot is None or record is None else {"slot": slot.name, **record.as_dict()}


def _healthy(running: dict[str, Any] | None, says: health.Status | None) -> bool | None:
    """Whether the service says so, of the package that is to run; None where no service says anything."""
    if says is None or running is None:
        return None
    return bool(says.get("healthy")) and says.get("package") == running["build_id"]
