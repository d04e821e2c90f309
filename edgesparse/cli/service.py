"""`service`: installs what systemd needs to run edgesparse, and removes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Subcommands
from edgesparse.cli.options import Verb
from edgesparse.cli.show import complain

if TYPE_CHECKING:
    from edgesparse.service.install import Change


@click.group(cls=Subcommands)
def service() -> None:
    """Install the service of this device, or remove it."""


def _where(function: Verb) -> Verb:
    """Add --root and --check."""
    root = click.option(
        "--root", type=options.PATH, default="/", metavar="FOLDER", help="Change the system below this folder."
    )
    check = click.option("--check", is_flag=True, help="Print what would be done; change nothing.")
    return root(check(function))


@service.command()
@click.argument("target", type=options.TARGET)
@click.option("--source", type=options.TEXT, default="/dev/video0", metavar="SOURCE", help="Use this camera.")
@click.option("--pull", type=options.PATH, metavar="FILE.env", help="Poll the address in this file.")
@click.option("--anchor", type=options.PATH, metavar="FILE", help="Trust this root at first.")
@_where
@options.force
def install(
    target: Path, source: str, pull: Path | None, anchor: Path | None, root: Path, check: bool, force: bool
) -> None:
    """Write the systemd unit, its user and its settings.

    TARGET is what the service runs: a package, RECIPE.yaml, MODEL.onnx or demo. Settings that exist are kept.

    With --pull and --anchor, a timer runs 'edgesparse fleet pull'; TARGET is then /var/lib/edgesparse/current/package.
    """
    from edgesparse.service.install import Installation, Pull, refuse_without_root

    if (pull is None) != (anchor is None):
        raise click.UsageError("needed both --pull and --anchor, or neither")
    polls = None if pull is None or anchor is None else Pull(pull, anchor)
    installation = Installation(str(target), source, root, force, polls)
    changes = installation.changes()
    if not check:
        refuse_without_root(root)
    _apply(changes, check)
    for note in installation.notes():
        complain(note)
    if not check:
        complain("next: edit /etc/edgesparse/device.yaml, then sudo systemctl start edgesparse")


@service.command()
@_where
def uninstall(root: Path, check: bool) -> None:
    """Stop the service and polling, and remove their units.

    Settings, keys, engines and the user are kept: /etc/edgesparse and /var/lib/edgesparse.
    """
    from edgesparse.service.install import refuse_without_root, removals

    changes = removals(root)
    if not check:
        refuse_without_root(root)
    _apply(changes, check)
    if not changes:
        complain("nothing to do: no unit of edgesparse is installed")


def _apply(changes: Iterable[Change], check: bool) -> None:
    for change in changes:
        complain(f"would {change.what}" if check else change.what)
        if not check:
            change.make()
