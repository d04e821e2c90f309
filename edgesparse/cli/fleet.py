"""`bundle`, `deploy`, `rollback`, `status`: how a detector gets onto devices."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.errors import EdgeSparseError, RolledBack
from edgesparse.progress import Progress

if TYPE_CHECKING:
    from edgesparse.fleet.deploy import Device, Outcome

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("target", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File to write, as parts.esb.")
@click.option("--key", type=PATH, required=True, help="NAME.key of 'edgesparse keys new'.")
@click.option("--version", metavar="N.N", help="Counts up [default: the time of the newest file that goes in].")
@click.option("--images", type=PATH, help="Folder with images for the self-test [default: the recipe's].")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bundle(
    target: Path, output: Path, key: Path, version: str | None, images: Path | None, force: bool, as_json: bool
) -> None:
    """Write one signed file with all that devices make their engine from, out of RECIPE.yaml or MODEL.onnx."""
    from edgesparse.cli.writing import check_free
    from edgesparse.fleet import contents, keys

    check_free(output, force)
    with progress() as advance:
        private = keys.read_private(key)
        made = contents.make(target, output, private, version=version, images=images, progress=advance)
    if as_json:
        emit_json({"file": str(output), **made.model_dump(mode="json")})
        return
    click.echo(f"wrote {output}: {made.name} {made.version}, {len(made.files)} files, {made.size / 1e6:.1f} MB")
    click.echo(f"signed with {private.public}; next, on a device: edgesparse deploy {output}")


def _on_a_device(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every verb that looks at a device."""
    options = (
        click.option("--root", type=PATH, help="Where slots lie [default: /var/lib/edgesparse, or EDGESPARSE_STATE]."),
        click.option("--status", type=PATH, help="What the service writes [default: /run/edgesparse/status.json]."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), verb)


def _restarts(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every verb that restarts the service."""
    command = "Command that restarts the service; '' leaves it alone [default: systemctl restart edgesparse]."
    options = (
        click.option("--restart", metavar="COMMAND", help=command),
        click.option("--health-seconds", type=click.FloatRange(0, min_open=True), default=60, show_default=True),
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), verb)


@click.command()
@click.argument("source", metavar="FILE|URL", required=False)
@_on_a_device
@_restarts
@click.option("--trusted", type=PATH, help="Folder of public keys [default: /etc/edgesparse/trusted].")
@click.option("--allow-downgrade", is_flag=True, help="Take a version that is not newer.")
@click.option("--check", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--recover", is_flag=True, help="Only finish or undo what a power cut has left.")
def deploy(
    source: str | None,
    root: Path | None,
    status: Path | None,
    restart: str | None,
    health_seconds: float,
    trusted: Path | None,
    allow_downgrade: bool,
    check: bool,
    recover: bool,
    as_json: bool,
) -> None:
    """Bring a bundle onto this device: verify, build beside what runs, test, switch, watch, and commit or go back."""
    from edgesparse.fleet import keys
    from edgesparse.fleet.fetch import open_source

    if recover == (source is not None):
        raise click.UsageError("needed a bundle's FILE or URL, or --recover alone")

    def do(advance: Progress) -> Outcome:
        if source is None:
            return _device(root, status, restart or "", health_seconds, advance).recover()
        device = _device(root, status, restart, health_seconds, advance)
        with open_source(source, keys.trusted(trusted or keys.TRUSTED)) as bundle:
            return (device.check if check else device.deploy)(bundle, downgrade=allow_downgrade)

    _tell(do, as_json)


@click.command()
@_on_a_device
@_restarts
def rollback(root: Path | None, status: Path | None, restart: str | None, health_seconds: float, as_json: bool) -> None:
    """Back to the package that ran before, watched as a deploy is."""
    _tell(lambda advance: _device(root, status, restart, health_seconds, advance).rollback(), as_json)


@click.command()
@_on_a_device
@click.option("--history", type=click.IntRange(0), default=5, show_default=True, help="Lines of history.")
def status(root: Path | None, status: Path | None, history: int, as_json: bool) -> None:
    """What runs on this device, since when, how it is, and what happened last."""
    from edgesparse.fleet import status as states
    from edgesparse.fleet.restart import STATUS, Service
    from edgesparse.fleet.slots import Root, default_root

    place = Root(root or default_root())
    said = states.status(place, Service(status=status or STATUS))
    lines = place.history()[-history:] if history else []
    if as_json:
        emit_json({**said, "history": lines})
        return
    for name in ("running", "other"):
        click.echo(f"{name}: {_slot(said[name])}")
    service = said["service"]
    click.echo(f"service: {_service(service, said['healthy']) if service else 'says nothing'}")
    if said["under_way"]:
        click.echo(f"under way: {said['under_way']['verb']}, {said['under_way']['step']}")
    columns = ("when", "verb", "result", "version", "slot", "why")
    rows = [(_when(one["time"]), *(one.get(key, "") for key in columns[1:])) for one in lines]
    if rows:
        table("history", columns, rows)


def _slot(said: dict[str, Any] | None) -> str:
    if said is None:
        return "nothing"
    state = f"bad: {said['bad']}" if said["bad"] else "not committed"
    if said["committed"] is not None and not said["bad"]:
        state = f"since {_when(said['committed'])}"
    return f"{said['name']} {said['version']} in slot {said['slot']}, {said['backend']} {said['precision']}, {state}"


def _service(says: dict[str, Any], healthy: bool | None) -> str:
    why = f": {says['why']}" if says.get("why") else ""
    counts = ", ".join(f"{says.get(what, 0)} {what}" for what in ("frames", "errors"))
    return f"{'healthy' if healthy else 'not healthy'}{why}, {counts}"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _device(root: Path | None, status: Path | None, restart: str | None, seconds: float, advance: Progress) -> Device:
    from edgesparse.device import STATE
    from edgesparse.fleet.deploy import Device
    from edgesparse.fleet.restart import RESTART, STATUS, service
    from edgesparse.fleet.slots import Root, default_root

    os.environ.setdefault(STATE, str(root or default_root()))  # the slots' engines are signed with the key in there
    served = service(RESTART if restart is None else restart, status or STATUS, seconds)
    return Device(Root(root or default_root()), served, progress=advance)


def _tell(do: Callable[[Progress], Outcome], as_json: bool) -> None:
    """Do it, and print what it came to; as JSON also where it is refused."""
    try:
        with progress() as advance:
            outcome = do(advance)
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
