"""A disk that scripts/provision has turned from a bare root into a board with a running service, and its state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu import Machine

PROVISION = "/host/wheelhouse/scripts/provision --json --any-machine --offline /host/wheelhouse"
PROVISION += " --key /host/fleet.pub --settings /host/device.yaml --bundle /host/1.0.esb"
RUNS = {"before": " --check", "run": "", "again": "", "after": " --check"}
STATUS = "/run/edgesparse/status.json"

Start = Callable[[], Machine]
"""Continues a machine whose service runs, on a fresh overlay of the provisioned disk."""


Boot = Callable[..., Machine]
"""Makes a machine on a disk (the bare root) with a log of writes (none), without starting it."""


@dataclass(frozen=True)
class Provisioned:
    """A provisioned disk, the suspended machine whose service runs on it, and the reports of RUNS."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "provisioned.qcow2"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def reports(self) -> dict[str, dict[str, Any]]:
        reports: dict[str, dict[str, Any]] = json.loads((self.folder / "reports.json").read_text())
        return reports

    @property
    def complete(self) -> bool:
        return (self.folder / "reports.json").exists()


def provision(machine: Machine, options: str = "") -> dict[str, Any]:
    """Provision, and return the report; progress goes to the console."""
    done = machine.run(f"{PROVISION}{options} 2>/dev/console", 1800)
    assert done.output.startswith("{"), done.output + machine.tail()
    report: dict[str, Any] = json.loads(done.output)
    return report


def prepare(machine: Machine, out: Provisioned) -> None:
    """Provision a bare root as a user would, and suspend the machine once its service has detected in frames."""
    try:
        machine.start()
        reports = {}
        for name, options in RUNS.items():
            reports[name] = provision(machine, options)
            assert reports[name]["ok"], (name, reports[name])
        serves(machine)
        machine.check("sync")
        machine.suspend(out.state)
        machine.overlay.rename(out.disk)
        (out.folder / "reports.json").write_text(json.dumps(reports))
    finally:
        machine.close()


def status(machine: Machine) -> dict[str, Any]:
    """Return the service's state; empty before it has written any."""
    output = machine.run(f"cat {STATUS}").output
    state: dict[str, Any] = json.loads(output) if output.startswith("{") else {}
    return state


def serves(machine: Machine, seconds: float = 300.0) -> dict[str, Any]:
    """Wait until the service is ready and has detected in five more frames, and return its state."""
    end, first = time.monotonic() + seconds, None
    while True:
        state = status(machine)
        if state.get("ready") and state.get("healthy"):
            key = state["pid"], state["frames"]
            first = first if first is not None and first[0] == key[0] else key
            if key[1] >= first[1] + 5:
                return state
        assert time.monotonic() < end, (state, machine.journal("-u edgesparse")[-4000:])
        time.sleep(0.5)


def show(machine: Machine, name: str) -> str:
    """Return a property of the unit."""
    return machine.check(f"systemctl show edgesparse --property={name} --value").strip()
