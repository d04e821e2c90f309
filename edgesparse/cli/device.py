"""Shared by `deploy`, `rollback` and `status`: options, the device, and how an outcome is printed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgesparse.cli import options
from edgesparse.cli.options import Verb
from edgesparse.cli.show import complain, emit_json, progress
from edgesparse.errors import EdgeSparseError, RolledBack
from edgesparse.progress import Progress

if TYPE_CHECKING:
    from edgesparse.fleet.deploy import Device, Outcome


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a device's state is, and how its service is restarted and watched. None stands for the default."""

    root: Path | None
    status: Path | None
    restart: str | None
    health_seconds: float

    def device(self, advance: Progress) -> Device:
        """Return the device on which this process runs."""
        from edgesparse.device import STATE
        from edgesparse.fleet.deploy import Device
        from edgesparse.fleet.restart import RESTART, STATUS, service_control
        from edgesparse.fleet.slots import Root, default_root

        root = self.root or default_root()
        os.environ.setdefault(STATE, str(root))  # its key signs the engines in the slots
        restart = RESTART if self.restart is None else self.restart
        served = service_control(restart, self.status or STATUS, self.health_seconds)
        return Device(Root(root), served, progress=advance)


def on_device(function: Verb) -> Verb:
    """Add the options of verbs that read a device's state."""
    root = click.option("--root", type=options.PATH, metavar="FOLDER", help="Use the slots in this folder.")
    status = click.option(
        "--status", type=options.PATH, metavar="FILE", help="Read the service's status from this file."
    )
    return root(status(options.as_json(function)))


def restarts(function: Verb) -> Verb:
    """Add the options of verbs that restart the service."""
    text = "Restart the service with this; '': do not."
    restart = click.option("--restart", metavar="COMMAND", help=text)
    positive = options.POSITIVE
    health = click.option(
        "--health-seconds",
        type=positive,
        default=60,
        show_default=True,
        metavar="S",
        help="Watch the restarted service for this long.",
    )
    return restart(health(function))


no_shadow = click.option("--no-shadow", is_flag=True, help="Skip what the recipe's deploy.shadow asks for.")


def report(act: Callable[[Progress], Outcome], as_json: bool) -> None:
    """Act and print the outcome; as JSON, also that of a refusal."""
    try:
        with progress() as advance:
            outcome = act(advance)
    except EdgeSparseError as error:
        if as_json:
            result = "rolled back" if isinstance(error, RolledBack) else "refused"
            emit_json({"result": result, "changed": False, "why": str(error)})
        raise
    if outcome.note:
        complain(outcome.note)
    if as_json:
        emit_json(outcome.as_dict())
        return
    what = " ".join(filter(None, (outcome.name, outcome.version, outcome.slot and f"in slot {outcome.slot}")))
    click.echo(f"{outcome.result}{what and ': '}{what}")


def date(seconds: float) -> str:
    """Format seconds since 1970 as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
