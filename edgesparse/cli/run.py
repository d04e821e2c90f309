"""`run`: the frame loop, once or as a service."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.run_progress import run_progress
from edgesparse.cli.run_service import run_service
from edgesparse.cli.show import emit_json, progress
from edgesparse.errors import ConfigError

if TYPE_CHECKING:
    from edgesparse.config import Run

_OVERRIDES = ("conf", "iou", "max_det", "classes", "tracking", "tiles")
_OUTPUTS = ("jsonl", "txt", "coco", "video", "save_images", "show", "categories", "force")


NO_OUTPUT = "no output was chosen, so only a summary is printed: see --show, --video, --save-images, --jsonl"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of `run`: `overrides` of the recipe's `run:` section, and `outputs` of the loop."""

    store: Path
    overrides: Mapping[str, Any]
    outputs: Mapping[str, Any]
    lines: Mapping[str, Any]
    frames: int | None
    as_json: bool


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET)
@click.option(
    "--source",
    "sources",
    type=options.TEXT,
    multiple=True,
    metavar="SOURCE",
    help="Read frames from this; repeatable.",
)
@click.option("--tracking", is_flag=True, default=None, help="Track objects from frame to frame.")
@click.option("--conf", type=options.SHARE, metavar="F", help="Drop boxes below this confidence.")
@click.option("--iou", type=options.SHARE, metavar="F", help="Merge boxes that overlap by more.")
@click.option("--max-det", type=options.COUNT, metavar="N", help="Keep at most this many boxes per frame.")
@click.option("--classes", type=options.TEXT, metavar="NAME,...", help="Detect only these classes, by name or number.")
@options.tiles
@options.lines
@click.option("--frames", type=options.COUNT, metavar="N", help="Stop after this many frames.")
@click.option("--jsonl", type=options.PATH, metavar="FILE", help="Write JSON lines; '-' is standard output.")
@click.option("--txt", type=options.PATH, metavar="FOLDER", help="Write YOLO text files.")
@click.option("--coco", type=options.PATH, metavar="FILE", help="Write COCO results.")
@click.option("--categories", type=options.PATH, metavar="FILE", help="Use the ids of this COCO JSON in --coco.")
@click.option("--video", type=options.PATH, metavar="FILE", help="Write an annotated video, .mp4, .webm or .avi.")
@click.option("--save-images", type=options.PATH, metavar="FOLDER", help="Write annotated images.")
@options.renamed("--pictures", "--save-images")
@click.option("--show", is_flag=True, help="Show a window; q closes it.")
@click.option("--service", is_flag=True, help="Run as a service, with --settings.")
@click.option("--settings", type=options.PATH, metavar="FILE", help="Read cameras and outputs from this file.")
@options.store
@options.force
@options.as_json
def run(
    target: Path, sources: tuple[str, ...], service: bool, settings: Path | None, frames: int | None, **fields: Any
) -> None:
    """Detect objects in cameras, videos or images.

    TARGET is a package, RECIPE.yaml or MODEL.onnx. A SOURCE is a camera number, /dev/video0, csi://0, rtsp://..., a
    video, an image, a folder, a glob, or demo. Anything not set comes from the recipe. Ctrl-C, SIGTERM and SIGHUP end a
    run with its outputs complete and a summary. A LINE counts what crosses it, from its left to its right (in) and back
    (out); points are shares of the frame's width and height. A service has systemd notifications, a web page, metrics
    and MQTT; SIGHUP reloads its settings.
    """
    overrides = {key: fields[key] for key in _OVERRIDES if fields[key] is not None}
    overrides |= {"source": sources} if sources else {}
    outputs = {key: fields[key] for key in _OUTPUTS}
    outputs["jsonl"] = None if fields["jsonl"] is None else str(fields["jsonl"])
    chosen = RunOptions(
        store=fields["store"],
        overrides=overrides,
        outputs=outputs,
        lines=fields["lines"],
        frames=frames,
        as_json=fields["as_json"],
    )
    if service:
        if frames is not None or chosen.as_json or chosen.lines or any(outputs.values()):
            raise click.UsageError("--service takes its outputs from --settings: leave the other options out")
        run_service(target, chosen.store, settings, chosen.overrides)
    elif chosen.as_json and outputs["jsonl"] == "-":
        raise click.UsageError("--json and --jsonl -: only one of them can write to standard output")
    elif fields["categories"] is not None and outputs["coco"] is None:
        raise click.UsageError("--categories needs --coco")
    elif settings is not None:
        raise click.UsageError("--settings needs --service")
    else:
        _run(target, chosen)


def _check_outputs(chosen: RunOptions) -> None:
    """Check files and folders before anything is built; the sinks check the rest when they open."""
    from edgesparse.disk import check_folder
    from edgesparse.tasks.writing import check_outputs, special

    if str(chosen.outputs["coco"]) == "-":
        raise ConfigError("--coco -: name a file; only --jsonl can write to standard output")
    outputs = [chosen.outputs[name] for name in ("jsonl", "coco", "video") if chosen.outputs[name] is not None]
    files = [Path(output) for output in outputs if str(output) != "-"]
    check_outputs([path for path in files if not special(path)], chosen.outputs["force"])
    for folder in (chosen.outputs["txt"], chosen.outputs["save_images"]):
        if folder is not None:
            check_folder(folder)


def _with_lines(run: Run, lines: Mapping[str, Any]) -> Run:
    """Return a copy whose cameras count at these lines, besides their own."""
    from edgesparse.config import override

    if not lines:
        return run
    cameras = [camera.model_dump(mode="json") for camera in run.all_cameras()]
    for camera in cameras:
        camera["lines"] = {**camera["lines"], **lines}
    return override(run, {"cameras": cameras, "tracking": run.tracking or "bytetrack"})


def _run(target: Path, chosen: RunOptions) -> None:
    from edgesparse.builder.targets import open_detector, ready
    from edgesparse.config import override
    from edgesparse.stream.pipeline import Loop
    from edgesparse.stream.sinks.open import open_sinks
    from edgesparse.tasks.inputs import NO_SOURCE, check_sources

    _check_outputs(chosen)
    check_sources(target, chosen.overrides)
    with progress() as advance:
        package = ready(target, chosen.store, progress=advance)
    settings = _with_lines(override(package.manifest.run, dict(chosen.overrides)), chosen.lines)
    cameras = settings.all_cameras()
    if not cameras:
        raise ConfigError(NO_SOURCE)
    names = package.manifest.detector.classes
    shared = chosen.outputs["jsonl"] == "-" and sys.stdout.isatty()
    with open_detector(package, settings) as detector, run_progress(shared) as advance_run:
        with Loop.of(cameras, detector, observer=advance_run) as loop:
            with open_sinks(names, fps=loop.rates(), **chosen.outputs) as loop.sinks:
                if not loop.sinks and not chosen.as_json:
                    print(NO_OUTPUT, file=sys.stderr, flush=True)
                advance_run.expect([feed.source for feed in loop.feeds], chosen.frames)
                summary = loop.run(chosen.frames)
    shown = ", ".join(feed.source.name for feed in loop.feeds)
    if chosen.as_json:
        emit_json({"package": str(package.folder), "source": shown, **asdict(summary)})
    else:
        click.echo(f"{package.manifest.model} on {shown}\n{summary}", err=chosen.outputs["jsonl"] == "-")
