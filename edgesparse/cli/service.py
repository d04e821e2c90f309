"""`service`: installs what systemd needs to run edgesparse."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.show import complain


@click.group()
def service() -> None:
    """Install the service of this device."""


@service.command()
@click.argument("target", type=options.TARGET)
@click.option("--source", type=options.TEXT, default="/dev/video0", metavar="SOURCE", help="Use this camera.")
@click.option("--root", type=options.PATH, default="/", metavar="FOLDER", help="Install into this image of a system.")
@options.force
def install(target: Path, source: str, root: Path, force: bool) -> None:
    """Write the systemd unit, its user and its settings.

    TARGET is what the service runs: a package, RECIPE.yaml, MODEL.onnx or demo. Settings that exist are kept.
    """
    from edgesparse.service.install import Installation

    for line in Installation(str(target), source, root, force).run():
        complain(line)
    complain("next: edit /etc/edgesparse/device.yaml, then sudo systemctl start edgesparse")
