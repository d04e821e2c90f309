"""`evaluate` and `bench`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from edgesparse.cli.show import emit_json, progress, table

TARGET = click.Path(path_type=Path)


@click.command()
@click.argument("target", type=TARGET)
@click.option("--data", type=TARGET, required=True, help="COCO JSON, or a folder that holds instances_val.json.")
@click.option("--images", type=TARGET, help="Folder of its pictures, if not beside it.")
@click.option("--classes", help="'coco', or a file with the class names, for a model that names none.")
@click.option("--store", type=TARGET, default="engines", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(target: Path, data: Path, images: Path | None, classes: str | None, store: Path, as_json: bool) -> None:
    """COCO mAP of a package, RECIPE.yaml or MODEL.onnx on labelled pictures (conf 0.001, NMS 0.65, 300 boxes)."""
    from edgesparse.build.ready import open_detector, ready
    from edgesparse.runtime.evaluate import SCORING, Labels
    from edgesparse.runtime.evaluate import evaluate as score

    labels = Labels(annotation_file(data), images)
    with progress() as advance:
        package = ready(target, store, progress=advance, classes=classes)
        with open_detector(package, SCORING) as detector:
            found = score(detector, labels, lambda done, total: advance("scoring", done, total))
    if as_json:
        emit_json(asdict(found))
        return
    rows = [(c.name, c.boxes, c.map, c.map50) for c in sorted(found.classes, key=lambda c: -c.map)]
    table(f"{package.manifest.model} on {found.images} pictures", ("class", "boxes", "mAP", "mAP50"), rows, numbers=3)
    click.echo(
        f"mAP {found.map:.1f}  mAP50 {found.map50:.1f}  mAP75 {found.map75:.1f}  "
        f"small {found.small:.1f}  medium {found.medium:.1f}  large {found.large:.1f}"
    )


def annotation_file(data: Path) -> Path:
    """The annotation file that --data names, or the only one in its folder."""
    if not data.is_dir():
        return data
    found = sorted({*data.glob("instances_val*.json"), *data.glob("instances.json")})
    if len(found) != 1:
        raise click.UsageError(f"--data: found {len(found)} annotation files in {data}, needed one: give its path")
    return found[0]


@click.command()
@click.argument("target", type=TARGET)
@click.option("--source", help="File, folder or glob [default: frames of the demo scene, 1920x1080, in memory].")
@click.option("--frames", type=click.IntRange(1), default=300, show_default=True, help="How many to time.")
@click.option("--store", type=TARGET, default="engines", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(target: Path, source: str | None, frames: int, store: Path, as_json: bool) -> None:
    """Latency a stage of a package, RECIPE.yaml or MODEL.onnx, from frame to detections, and peak memory."""
    from edgesparse.build.ready import open_detector, ready
    from edgesparse.stream import pipeline
    from edgesparse.stream.memory import scene_frames
    from edgesparse.stream.sinks import JsonLines
    from edgesparse.stream.sources import open_source

    with progress() as advance:
        package = ready(target, store, progress=advance)
        advance("timing frames", 0, 0)
        with open_detector(package) as detector, open_source(source) if source else scene_frames() as stream:
            with JsonLines(os.devnull, detector.spec.classes, force=True) as sink:
                pipeline.run(stream, detector, limit=min(20, stream.total or 20))
                stream.reopen()
                summary = pipeline.run(stream, detector, [sink], limit=frames)
    if as_json:
        emit_json({"package": str(package.folder), **asdict(summary)})
        return
    click.echo(f"{package.manifest.model} on {stream.name}\n{summary}")
