"""`slim`: fewer kernels, the same boxes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, progress, table

if TYPE_CHECKING:
    from edgesparse.compress import SlimReport


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET, metavar="MODEL.onnx|RECIPE.yaml")
@options.output("Write this file.")
@click.option(
    "--device",
    default="orin-nano-8gb",
    show_default=True,
    metavar="BOARD",
    help="Predict gains there, e.g. orin-nano-8gb:15W.",
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16"]),
    default="int8",
    show_default=True,
    help="Predict for engines of this precision.",
)
@click.option("--keep-decoding", is_flag=True, help="Leave the outputs as they are.")
@options.names
@options.force
@options.as_json
def slim(target: Path, output: Path, keep_decoding: bool, as_json: bool, **fields: Any) -> None:
    """Rewrite a model to need fewer kernels for the same boxes.

    A rewrite is kept if it lowers the predicted time on the board. Box decoding is moved out of the
    engine, unless you pass --keep-decoding: OUT.onnx then ends in maps and names the head that reads them, which only
    edgesparse does. The result is compared with the original before it is written. Nothing is trained, and no images
    are needed.
    """
    from edgesparse.compress import SlimOptions
    from edgesparse.tasks.slim import slim_file

    chosen = SlimOptions(maps=not keep_decoding, device=fields.pop("device"), precision=fields.pop("precision"))
    with progress() as advance:
        result = slim_file(target, output, chosen, **fields, progress=advance)
    if as_json:
        emit_json(result.as_dict())
        return
    _show(target, result.report)
    click.echo(f"wrote {output}; next: edgesparse quantize or edgesparse build")


def _show(model: Path, report: SlimReport) -> None:
    table(
        f"{model.name}: rewrites, each kept where {report.precision} on {report.device} is predicted to be faster",
        ("rewrite", "where", "", "result", "saves us", "kernels"),
        (
            (s.rewrite, s.where, "kept" if s.kept else "dropped", s.why, 1e3 * s.saved_ms, s.saved_kernels)
            for s in report.steps
        ),
        numbers=2,
    )
    before, after, change = report.before, report.after, report.change
    click.echo(
        f"{before.kernels} kernels before, {after.kernels} after; {before.ms:.2f} ms predicted, now {after.ms:.2f}"
    )
    if report.head is None:
        click.echo(f"outputs differ by at most {change.score:.1e} of their largest value")
    else:
        click.echo(
            f"read by {report.head}: boxes differ by at most {change.pixels:.1e} pixels, scores by {change.score:.1e}"
        )
