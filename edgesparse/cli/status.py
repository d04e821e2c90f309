"""`status`: what runs on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgesparse.cli import options
from edgesparse.cli.device import date, on_device
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, table
from edgesparse.redaction import redact_text

COLUMNS = ("when", "verb", "result", "version", "slot", "why")


@click.command(cls=Verb)
@on_device
@click.option(
    "--history", type=options.Count(0), default=5, show_default=True, metavar="N", help="Print this many past events."
)
def status(root: Path | None, status: Path | None, history: int, as_json: bool) -> None:
    """Show what runs on this device, its health and its history."""
    from edgesparse.fleet import status as states
    from edgesparse.fleet.restart import STATUS, ServiceControl
    from edgesparse.fleet.slots import Root, default_root

    slots = Root(root or default_root())
    state = states.status(slots, ServiceControl(status=status or STATUS))
    with slots.reading():
        events = slots.history()[-history:] if history else []
    if as_json:
        emit_json({**state, "history": events})
        return
    for name in ("running", "other"):
        click.echo(redact_text(f"{name}: {_slot(state[name])}"))
    service = state["service"]
    click.echo(
        redact_text(
            f"service: {_service(service, state['healthy']) if service else 'no status: ' + state['no_service']}"
        )
    )
    if going := state["under_way"]:
        click.echo(redact_text(f"under way: {going['verb']}, {going.get('progress') or going['step']}"))
    rows = [(date(event.get("time", 0)), *(event.get(key, "") for key in COLUMNS[1:])) for event in events]
    if rows:
        table("history", COLUMNS, rows)


def _slot(slot: dict[str, Any] | None) -> str:
    if slot is None:
        return "nothing"
    state = f"bad: {slot['bad']}" if slot["bad"] else "not committed"
    if slot["committed"] is not None and not slot["bad"]:
        state = f"since {date(slot['committed'])}"
    what = f"{slot['name']} {slot['version']} in slot {slot['slot']}, {slot['backend']} {slot['precision']}, {state}"
    return f"{what}{_shadow(slot['shadow'])}"


def _shadow(result: dict[str, Any]) -> str:
    """Return how an engine compared beside the one before it, from what a state file holds."""
    values = [result.get(key) for key in ("recall", "boxes", "latency_ms")]
    if not all(isinstance(value, int | float) for value in values):
        return ""
    recall, boxes, latency = map(float, values)  # type: ignore[arg-type]
    memory = f", {result['memory_mb']:.0f} MB" if isinstance(result.get("memory_mb"), float) else ""
    return f", beside the one before: {100 * recall:.0f} % of {boxes:.0f} boxes, {latency:.1f} ms{memory}"


def _service(service: dict[str, Any], healthy: bool | None) -> str:
    why = f": {service['why']}" if service.get("why") else ""
    counts = ", ".join(f"{service.get(what, 0)} {what}" for what in ("frames", "errors"))
    return f"{'healthy' if healthy else 'not healthy'}{why}, {counts}"
