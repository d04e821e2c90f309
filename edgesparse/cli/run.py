"""`run`: the frame loop."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgesparse.cli.show import emit_json, progress

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("target", type=PATH)
@click.option(
    "--source",
    "sources",
    multiple=True,
    help="Camera number, /dev/video0, csi://0, rtsp://..., file, folder, glob, demo; again for several cameras "
    "[default: the recipe's].",
)
@click.option("--tracking", is_flag=True, default=None, help="Objects keep their number from frame to frame.")
@click.option("--conf", type=click.FloatRange(0, 1), help="Least confidence.")
@click.option("--iou", type=click.FloatRange(0, 1), help="NMS: boxes of a class that overlap by more are one.")
@click.option("--max-det", type=click.IntRange(1), help="Most detections a frame.")
@click.option("--classes", help="Only these, by name or number, comma separated.")
@click.option("--frames", type=click.IntRange(1), help="Stop after so many.")
@click.option("--jsonl", type=click.Path(), help="JSON lines; '-' is standard output.")
@click.option("--txt", type=PATH, help="Folder for YOLO text files.")
@click.option("--coco", type=PATH, help="COCO JSON.")
@click.option("--video", type=PATH, help="Annotated video, .mp4 or .avi.")
@click.option("--pictures", type=PATH, help="Folder for annotated pictures.")
@click.option("--show", is_flag=True, help="A window; q closes it.")
@click.option("--store", type=PATH, default="engines", show_default=True)
@click.option("--force", is_flag=True, help="Overwrite outputs.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(target: Path, sources: tuple[str, ...], frames: int | None, store: Path, as_json: bool, **options: Any) -> None:
    """Detect in the frames of one or more cameras, with a package, RECIPE.yaml or MODEL.onnx; ends on Ctrl-C with a
    summary."""
    from edgesparse.build.ready import open_detector, ready
    from edgesparse.config import override
    from edgesparse.stream.outputs import open_sinks
    from edgesparse.stream.pipeline import Loop

    with progress() as advance:
        package = ready(target, store, progress=advance)
    said = {key: options[key] for key in ("conf", "iou", "max_det", "classes", "tracking")}
    settings = override(package.manifest.run, {**said, "source": sources})
    cameras = settings.all_cameras()
    if not cameras:
        raise click.UsageError("no source: pass --source, or set run.source in the recipe")
    names = package.manifest.detector.classes
    outputs = {key: options[key] for key in ("jsonl", "txt", "coco", "video", "pictures", "show", "force")}
    with open_detector(package, settings) as detector, Loop.of(cameras, detector) as loop:
        with open_sinks(names, fps=loop.rates(), **outputs) as loop.sinks:
            summary = loop.run(frames)
    shown = ", ".join(feed.source.name for feed in loop.feeds)
    if as_json:
        emit_json({"package": str(package.folder), "source": shown, **asdict(summary)})
    else:
        click.echo(f"{package.manifest.model} on {shown}\n{summary}", err=options["jsonl"] == "-")
