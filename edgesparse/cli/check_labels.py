"""`check-labels`: faults in labels, and the category of each class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import emit_json, progress, table

if TYPE_CHECKING:
    from edgesparse.tasks.check_labels import LabelsReport


@click.command("check-labels", cls=Verb)
@click.argument("annotations", type=options.PATH)
@click.argument("target", type=options.TARGET, required=False)
@options.annotated_images("--images")
@options.names
@options.store
@options.as_json
@click.pass_context
def check_labels(
    context: click.Context,
    annotations: Path,
    target: Path | None,
    images: Path | None,
    names: str | None,
    store: Path,
    as_json: bool,
) -> None:
    """Check labels and how they match a detector's classes.

    Lists every fault with its count and examples and, with a TARGET, the score of each class mapping.
    ANNOTATIONS is a COCO JSON file, a YOLO data.yaml, or a folder that holds one of them. TARGET is a package,
    RECIPE.yaml or MODEL.onnx. Exits with 1 if the labels cannot be used, or if the detector does not score on them.
    """
    from edgesparse.builder.targets import ready
    from edgesparse.tasks.check_labels import check_labels as check

    with progress() as advance:
        package = ready(target, store, names=names, progress=advance) if target else None
        report = check(annotations, images, package, advance)
    if as_json:
        emit_json(report.as_dict())
    else:
        _show(report)
    context.exit(0 if report.sound else 1)


def _show(report: LabelsReport) -> None:
    click.echo(f"{report.path}: {report.images} images, {report.boxes} boxes")
    table("", ("category", "boxes"), report.categories.items(), numbers=1)
    for fault in report.faults:
        click.echo(f"{'fault' if fault.fatal else 'note'}: {fault}")
    if report.guesses:
        rows = [(guess.mapping, guess.map, guess.map50) for guess in report.guesses]
        table("with classes matched", ("", "mAP", "mAP50"), rows, numbers=2)
    if report.diagnosis:
        click.echo(f"the detector does not score: {report.diagnosis}")
    click.echo("the labels can be used" if report.sound else "the labels cannot be used in this state")
