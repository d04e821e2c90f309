"""`rollback`: return to the previous package."""

from __future__ import annotations

from typing import Any

import click

from edgesparse.cli.device import DeviceOptions, on_device, report, restarts
from edgesparse.cli.groups import Verb


@click.command(cls=Verb)
@on_device
@restarts
def rollback(as_json: bool, **fields: Any) -> None:
    """Return to the previous package, watched like a deploy."""
    chosen = DeviceOptions(**fields)
    report(lambda advance: chosen.device(advance).rollback(), as_json)
