"""`evaluate` and `bench`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.cli.writing import check_free, write

TARGET = click.Path(path_type=Path)
MOST = 64
"""Batch or streams, at most."""


@click.command()
@click.argument("target", type=TARGET)
@click.option("--data", type=TARGET, required=True, help="COCO JSON, or a folder that holds instances_val.json.")
@click.option("--images", type=TARGET, help="Folder of its images, if not beside it.")
@click.option("--classes", help="'coco', or a file with the class names, for a model that names none.")
@click.option("--store", type=TARGET, default="engines", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(target: Path, data: Path, images: Path | None, classes: str | None, store: Path, as_json: bool) -> None:
    """COCO mAP of a package, RECIPE.yaml or MODEL.onnx on labelled images (conf 0.001, NMS 0.65, 300 boxes)."""
    from edgesparse.builder.targets import open_detector, ready
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
    table(f"{package.manifest.model} on {found.images} images", ("class", "boxes", "mAP", "mAP50"), rows, numbers=3)
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
@click.option("--batch", metavar="N,...", help="Engines of these batches, built for it: how much the board carries.")
@click.option("--streams", metavar="N,...", help="So many of an engine at once.")
@click.option("--candidates", metavar="NAME,...", help="Only these ways of building a recipe, as fp16,fp16-2:4.")
@click.option("--fps", type=click.FloatRange(0, min_open=True), default=30, show_default=True, help="Of a camera.")
@click.option(
    "--max-age", type=click.FloatRange(0, min_open=True), default=100, show_default=True, help="Milliseconds."
)
@click.option("--seconds", type=click.FloatRange(0), default=2, show_default=True, help="An engine is kept busy for.")
@click.option("--html", type=TARGET, help="Write one self-contained page with --batch or --streams.")
@click.option("--force", is_flag=True, help="Overwrite the page.")
@click.option("--store", type=TARGET, default="engines", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    target: Path,
    source: str | None,
    frames: int,
    batch: str | None,
    streams: str | None,
    candidates: str | None,
    fps: float,
    max_age: float,
    seconds: float,
    html: Path | None,
    force: bool,
    store: Path,
    as_json: bool,
) -> None:
    """Latency a stage of a package, RECIPE.yaml or MODEL.onnx, from frame to detections, and peak memory.

    With --batch or --streams instead what its engines carry under load: frames a second, latency, and how many cameras
    that is when each sends --fps frames a second and a result may be --max-age milliseconds old. A recipe or a model is
    built for each batch; a package has its engine and its fallback.
    """
    if batch or streams:
        check_free(html, force)
        _carry(target, batch, streams, candidates, (fps, max_age), seconds, html, store, as_json)
        return
    if html or candidates:
        raise click.UsageError("--html and --candidates go with --batch or --streams")
    _stages(target, source, frames, store, as_json)


def _stages(target: Path, source: str | None, frames: int, store: Path, as_json: bool) -> None:
    from edgesparse.builder.targets import open_detector, ready
    from edgesparse.stream import pipeline
    from edgesparse.stream.sinks.text import JsonLines
    from edgesparse.stream.sources.memory import scene_frames
    from edgesparse.stream.sources.open import open_source

    with progress() as advance:
        package = ready(target, store, progress=advance)
        advance("timing frames", 0, 0)
        with open_detector(package) as detector, open_source(source) if source else scene_frames() as stream:
            with JsonLines(os.devnull, detector.spec.classes, force=True) as sink:
                pipeline.run(stream, detector, limit=min(20, stream.total or 20), depth=1)
                stream.reopen()
                summary = pipeline.run(stream, detector, [sink], limit=frames, depth=1)  # stages one by one
                where = detector.where
    if as_json:
        emit_json({"package": str(package.folder), "where": where, **asdict(summary)})
        return
    click.echo(f"{package.manifest.model} on {stream.name}; from frames to boxes: {where}\n{summary}")


def _carry(
    target: Path,
    batch: str | None,
    streams: str | None,
    candidates: str | None,
    asked: tuple[float, float],
    seconds: float,
    html: Path | None,
    store: Path,
    as_json: bool,
) -> None:
    from edgesparse import device
    from edgesparse.bench import throughput
    from edgesparse.bench.page import COLUMNS, page, row

    demand = throughput.Demand(*asked)
    batches, counts = numbers("--batch", batch), numbers("--streams", streams) or [1]
    with progress() as advance:
        name, loads = throughput.of_target(
            target, batches, counts, candidates.split(",") if candidates else None, demand, seconds, store, advance
        )
    said, clocks = throughput.summary(loads, demand), str(device.clocks())
    machine = device.probe()
    if html:
        about = f"{machine.model or machine.gpu or machine.cpu}; {clocks}"
        write(html, lambda path: path.write_text(page(f"{name}: what it carries", about, said, loads)))
        complain(f"wrote {html}")
    if as_json:
        rows = [asdict(load) for load in loads]
        emit_json({"model": name, "demand": asdict(demand), "loads": rows, "summary": said, "clocks": clocks})
        return
    table(name, COLUMNS, map(row, loads), numbers=len(COLUMNS) - 1)
    click.echo(said)


def numbers(option: str, text: str | None) -> list[int]:
    """`1,2,4` as numbers above 0, each once."""
    found = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdigit() and 0 < int(part) <= MOST for part in found):
        raise click.UsageError(f"{option}: found {text}, needed whole numbers from 1 to {MOST} as in 1,2,4")
    return list(dict.fromkeys(map(int, found)))
