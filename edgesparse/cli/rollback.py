"""`rollback`: back to the package that ran before."""

from __future__ import annotations

from typing import Any

import click

from edgesparse.cli.device import DeviceOptions, on_device, report, restarts


@click.command()
@on_device
@restarts
def rollback(as_json: bool, **fields: Any) -> None:
    """Return to the former package, watched like a deploy."""
    chosen = DeviceOptions(**fields)
    report(lambda advance: chosen.device(advance).rollback(), as_json)
