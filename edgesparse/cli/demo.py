"""`demo`: the scene that draws itself."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli.show import complain, progress


@click.group()
def demo() -> None:
    """The scene that draws and labels itself; 'edgesparse run demo' detects in it."""


@demo.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="How many images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What they are drawn from.")
@click.option("--size", type=(int, int), default=(480, 640), show_default=True, help="Height and width.")
@click.option("--moving", is_flag=True, help="Frames of one moving belt, not independent scenes.")
@click.option("--force", is_flag=True, help="Replace the folder.")
def export(folder: Path, count: int, seed: int, size: tuple[int, int], moving: bool, force: bool) -> None:
    """Write images of the scene and their labels: FOLDER/images/ and FOLDER/instances.json (COCO)."""
    from edgesparse.demo.export import export as write

    with progress() as advance:
        write(
            folder,
            count,
            seed,
            height=size[0],
            width=size[1],
            moving=moving,
            force=force,
            progress=lambda done, total: advance("drawing", done, total),
        )
    complain(f"wrote {count} images and instances.json into {folder}")
