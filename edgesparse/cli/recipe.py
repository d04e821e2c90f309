"""`recipe`: a commented recipe for a model."""

from __future__ import annotations

from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import complain
from edgesparse.tasks.writing import check_outputs


@click.command(cls=Verb)
@click.argument("model", type=options.PATH, metavar="MODEL.onnx")
@options.output("Write this file, or '-' to print.", required=False)
@click.option(
    "--head",
    type=options.TEXT,
    default="auto",
    metavar="HEAD",
    help="Use this head, or FILE.py:CLASS.",
)
@click.option("--size", type=options.COUNT, nargs=2, metavar="H W", help="Set the input size, if it is dynamic.")
@click.option("--image", type=options.PATH, metavar="IMAGE", help="Show what each possible head detects in this.")
@options.force
def recipe(
    model: Path, output: Path | None, head: str, size: tuple[int, int] | None, image: Path | None, force: bool
) -> None:
    """Write a commented recipe for a model."""
    from edgesparse.builder.recipe import write_recipe

    output = output or model.with_suffix(".yaml")
    if str(output) != "-":
        check_outputs((output,), force, (model,))
    if image is not None:
        head = _shown(model, size, image, head)
    text = write_recipe(model, output, head, size, force)
    if str(output) == "-":
        click.echo(text, nl=False)
    else:
        complain(f"wrote {output}; next: edgesparse build {output}")


def _shown(model: Path, size: tuple[int, int] | None, image: Path, head: str) -> str:
    """Print what each head that may fit sees. Returns the head to use, which this may settle if several fit equally."""
    from edgesparse.builder.recognition import heads_that_fit, settled

    seen = heads_that_fit(model, size, image)
    for each in seen:
        complain(f"{each.name} ({each.why}): {each.sees}")
    choice = settled(seen)
    if head != "auto" or choice is None or [each.strength for each in seen].count(choice.strength) == 1:
        return head
    complain(f"took {choice.name}: of the heads that fit equally, it alone sees boxes in {image}")
    return choice.name
