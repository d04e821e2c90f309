"""`evaluate`: COCO mAP, or a classifier's top-1, on annotated images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import complain, emit_json, progress, table


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET)
@options.labels(required=True)
@options.annotated_images("--images")
@options.names
@options.tiles
@options.store
@options.as_json
def evaluate(
    target: Path,
    annotations: Path,
    images: Path | None,
    names: str | None,
    tiles: str | None,
    store: Path,
    as_json: bool,
) -> None:
    """Score a package, recipe or ONNX model on annotated images.

    The score is COCO mAP as pycocotools computes it, at confidence 0.001, NMS 0.65 and at most 300 boxes per image. If
    the model has masks, keypoints (OKS) or rotated boxes, it is theirs. For a classifier it is top-1 and top-5, and
    the annotations may be a folder with one folder of images per class. Large images are also split into tiles, as in
    'run', if the recipe or --tiles says so; --tiles none scores whole images.
    """
    from edgesparse.builder.targets import ready
    from edgesparse.tasks.evaluate import evaluate_package
    from edgesparse.tasks.inputs import Annotated

    labels = Annotated(annotations, images).read()
    for note in labels.notes:
        complain(f"note: {note}")
    with progress() as advance:
        package = ready(target, store, names=names, progress=advance)
        score = evaluate_package(package, labels, advance, tiles)
    if score.note:
        complain(f"warning: the detector does not score on these labels: {score.note}")
    if as_json:
        emit_json(asdict(score))
        return
    rows = [(c.name, c.boxes, c.map, c.map50) for c in sorted(score.classes, key=lambda c: -c.map)]
    first, second = ("top-1", "top-5") if score.metric == "top-1" else ("mAP", "mAP50")
    title = f"{package.manifest.model} on {score.images} images{', tiled' if score.tiles else ''}"
    table(title, ("class", "boxes", first, second), rows, numbers=3)
    if score.metric == "top-1":
        click.echo(f"top-1 {score.map:.1f}  top-5 {score.map50:.1f}")
        return
    click.echo(
        f"{score.metric} {score.map:.1f}  mAP50 {score.map50:.1f}  mAP75 {score.map75:.1f}  "
        f"small {score.small:.1f}  medium {score.medium:.1f}  large {score.large:.1f}"
    )
