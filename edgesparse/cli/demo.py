"""`demo`: the demo scene, drawn and annotated by edgesparse itself."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Subcommands
from edgesparse.cli.show import complain, progress


@click.group(cls=Subcommands)
def demo() -> None:
    """Write images and annotations of the demo scene."""


@demo.command()
@click.argument("folder", type=options.PATH)
@click.option(
    "--count", type=options.COUNT, default=100, show_default=True, metavar="N", help="Write this many images."
)
@click.option("--seed", type=options.Count(0), default=0, show_default=True, metavar="N", help="Use this random seed.")
@click.option(
    "--size",
    type=options.Count(16, 8192),
    nargs=2,
    default=(480, 640),
    show_default=True,
    metavar="H W",
    help="Draw images of this height and width.",
)
@click.option("--moving", is_flag=True, help="Write frames of a moving belt.")
@click.option("--force", is_flag=True, help="Replace a previous export.")
def export(folder: Path, count: int, seed: int, size: tuple[int, int], moving: bool, force: bool) -> None:
    """Write images of the demo scene and their annotations.

    FOLDER gets images/ and instances.json (COCO). 'edgesparse run demo' detects in the same scene.
    """
    from edgesparse.demo.export import SceneFormat
    from edgesparse.demo.export import export as write

    with progress() as advance:
        write(folder, count, seed, scene=SceneFormat(*size, moving=moving), force=force, progress=advance)
    complain(f"wrote {count} images and instances.json into {folder}")
