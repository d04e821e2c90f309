"""`run`: the frame loop, for once or as a service."""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from edgesparse.cli.show import emit_json, progress
from edgesparse.errors import BackendUnavailable

PATH = click.Path(path_type=Path)
_SETTINGS = ("conf", "iou", "max_det", "classes", "tracking")
_OUTPUTS = ("jsonl", "txt", "coco", "video", "save_images", "show", "force")


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
@click.option("--save-images", type=PATH, help="Folder for annotated images.")
@click.option("--show", is_flag=True, help="A window; q closes it.")
@click.option("--service", is_flag=True, help="Day and night: systemd, web page, metrics, MQTT; SIGHUP reloads.")
@click.option("--settings", type=PATH, help="With --service: this device's cameras and outputs, a YAML file.")
@click.option("--store", type=PATH, default="engines", show_default=True)
@click.option("--force", is_flag=True, help="Overwrite outputs.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(
    target: Path,
    sources: tuple[str, ...],
    frames: int | None,
    service: bool,
    settings: Path | None,
    store: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Detect in the frames of one or more cameras, with a package, RECIPE.yaml or MODEL.onnx; ends on Ctrl-C with a
    summary."""
    said = {key: options[key] for key in _SETTINGS if options[key] is not None}
    said |= {"source": sources} if sources else {}
    outputs = {key: options[key] for key in _OUTPUTS}
    if service:
        if frames is not None or as_json or any(outputs.values()):
            raise click.UsageError("--service has its outputs in the file of --settings: leave the other options out")
        _serve(target, store, settings, said)
    elif settings is not None:
        raise click.UsageError("--settings is for --service: add that")
    else:
        _run(target, store, said, outputs, frames, as_json)


def _run(
    target: Path, store: Path, said: dict[str, Any], outputs: dict[str, Any], frames: int | None, as_json: bool
) -> None:
    from edgesparse.builder.targets import open_detector, ready
    from edgesparse.config import override
    from edgesparse.stream.pipeline import Loop
    from edgesparse.stream.sinks.open import open_sinks

    with progress() as advance:
        package = ready(target, store, progress=advance)
    settings = override(package.manifest.run, said)
    cameras = settings.all_cameras()
    if not cameras:
        raise click.UsageError("no source: pass --source, or set run.source in the recipe")
    names = package.manifest.detector.classes
    with open_detector(package, settings) as detector, Loop.of(cameras, detector) as loop:
        with open_sinks(names, fps=loop.rates(), **outputs) as loop.sinks:
            summary = loop.run(frames)
    shown = ", ".join(feed.source.name for feed in loop.feeds)
    if as_json:
        emit_json({"package": str(package.folder), "source": shown, **asdict(summary)})
    else:
        click.echo(f"{package.manifest.model} on {shown}\n{summary}", err=outputs["jsonl"] == "-")


def _serve(target: Path, store: Path, settings: Path | None, said: dict[str, Any]) -> NoReturn:
    import faulthandler

    try:
        from edgesparse.service.life import Service, Target
    except ImportError as error:
        raise BackendUnavailable(f"--service needs {error.name}: pip install 'edgesparse[service]'") from None
    faulthandler.enable(2)  # what every thread was doing, when systemd's watchdog ends a loop that hangs
    log = logging.getLogger("edgesparse")
    log.setLevel(logging.INFO)
    with progress() as advance:
        service = Service(Target(target, store, settings, said), advance)
    log.info("%s", service.run())
    _leave()


def _leave() -> NoReturn:
    """A driver may keep a capture thread for long, and Python would wait for it: all is written, so leave."""
    sys.stdout.flush()
    logging.shutdown()
    if threading.active_count() > 1:
        os._exit(0)
    sys.exit(0)
