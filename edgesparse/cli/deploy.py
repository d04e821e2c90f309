"""`deploy`: bring a bundle onto this device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.device import DeviceOptions, no_shadow, on_device, report, restarts
from edgesparse.cli.groups import Verb
from edgesparse.progress import Progress

if TYPE_CHECKING:
    from edgesparse.fleet.deploy import Outcome


@click.command(cls=Verb)
@click.argument("source", metavar="FILE|URL", required=False)
@on_device
@restarts
@click.option("--delta", type=options.TEXT, metavar="FILE|URL", help="Make the bundle from this, if possible.")
@click.option("--trusted", type=options.PATH, metavar="FOLDER", help="Trust the public keys in this folder.")
@click.option("--allow-downgrade", is_flag=True, help="Accept a version that is not newer.")
@no_shadow
@click.option("--check", is_flag=True, help="Print what would be done; change nothing.")
@click.option("--recover", is_flag=True, help="Finish or undo what a power cut interrupted.")
def deploy(
    source: str | None,
    delta: str | None,
    trusted: Path | None,
    allow_downgrade: bool,
    no_shadow: bool,
    check: bool,
    recover: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Verify, build, test and switch to a bundle, or roll back.

    The new engine is built and tested while the old one runs. If the recipe has deploy.shadow, both are compared on
    live frames. Then the service switches to the new engine and is watched: if it does not stay healthy, the old engine
    takes over again.

    Defaults: slots in /var/lib/edgesparse or EDGESPARSE_STATE, public keys in /etc/edgesparse/trusted, the service's
    status in /run/edgesparse/status.json, which is restarted by 'systemctl restart edgesparse'.

    With --delta, FILE or URL is only read if this device does not have the bundle that the delta begins with, or
    the delta is damaged.
    """
    from edgesparse.fleet import keys
    from edgesparse.fleet.patched import open_for_deploy

    if recover == (source is not None) or (recover and delta):
        raise click.UsageError("needed a bundle's FILE or URL, or --recover alone")
    chosen = DeviceOptions(**fields)

    def act(advance: Progress) -> Outcome:
        if source is None:
            return replace(chosen, restart=chosen.restart or "").device(advance).recover()
        device = replace(chosen.device(advance), shadow=not no_shadow)
        with open_for_deploy(source, delta, keys.trusted(trusted or keys.TRUSTED)) as bundle:
            return (device.check if check else device.deploy)(bundle, downgrade=allow_downgrade)

    report(act, as_json)
