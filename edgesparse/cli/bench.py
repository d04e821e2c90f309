"""`bench`: latency per stage, and throughput under load."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from edgesparse.cli import options
from edgesparse.cli.groups import Verb
from edgesparse.cli.show import complain, emit_json, progress, table
from edgesparse.tasks.writing import check_outputs, write

MOST = 64
"""Largest batch, and most streams."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The options of `bench`; `batches` and `streams` empty: per stage."""

    source: str | None
    frames: int
    batches: list[int]
    streams: list[int]
    candidates: str | None
    fps: float
    max_age: float
    seconds: float
    tiles: str | None
    html: Path | None
    force: bool
    store: Path
    as_json: bool


@click.command(cls=Verb)
@click.argument("target", type=options.TARGET)
@click.option("--source", type=options.TEXT, metavar="SOURCE", help="Read frames from this [default: demo scene].")
@click.option(
    "--frames", type=options.COUNT, default=300, show_default=True, metavar="N", help="Time this many frames."
)
@click.option("--batch", metavar="N,...", help="Load: build engines with these batch sizes.")
@click.option("--streams", metavar="N,...", help="Load: run this many streams per engine.")
@click.option("--candidates", metavar="NAME,...", help="Load: build only these, e.g. fp16,fp16-2:4.")
@click.option(
    "--fps",
    type=options.Number(0.001),
    default=30,
    show_default=True,
    metavar="F",
    help="Load: set a camera's frames per second.",
)
@click.option(
    "--max-age",
    type=options.POSITIVE,
    default=100,
    show_default=True,
    metavar="MS",
    help="Load: allow this many ms to a result.",
)
@click.option(
    "--seconds",
    type=options.NOT_NEGATIVE,
    default=2,
    show_default=True,
    metavar="S",
    help="Load: measure each engine for this long.",
)
@options.tiles
@options.html
@options.force
@options.store
@options.as_json
def bench(target: Path, batch: str | None, streams: str | None, **fields: Any) -> None:
    """Measure latency per stage and peak memory, or throughput.

    Per stage: from frame to detections, one frame after another; if the recipe or --tiles has tiles, with and without
    them. Under load (--batch or --streams): frames per second, latency, and the number of cameras that one engine
    serves if each sends --fps frames per second and a result may be --max-age milliseconds old. A recipe or model is
    built for each batch size; of a package, the engine and its fallback are measured.
    """
    chosen = BenchOptions(batches=numbers("--batch", batch), streams=numbers("--streams", streams), **fields)
    if chosen.batches or chosen.streams:
        if chosen.tiles is not None:
            raise click.UsageError("--tiles applies to frames only: leave out --batch and --streams")
        check_outputs((chosen.html,), chosen.force)
        _load(target, chosen)
        return
    if chosen.html or chosen.candidates:
        raise click.UsageError("--html and --candidates need --batch or --streams")
    _stages(target, chosen)


def _stages(target: Path, chosen: BenchOptions) -> None:
    from edgesparse.bench.stages import cost_of_tiles, measure_stages
    from edgesparse.builder.targets import ready
    from edgesparse.config import override
    from edgesparse.stream.sources.memory import scene_frames
    from edgesparse.stream.sources.open import open_source

    with progress() as advance, open_source(chosen.source) if chosen.source is not None else scene_frames() as source:
        package = ready(target, chosen.store, progress=advance)
        advance("timing frames", 0, 0)
        run = override(package.manifest.run, {"tiles": chosen.tiles})
        times, alone = measure_stages(package, source, chosen.frames, run), None
        if times.images > 1:
            advance("timing frames without tiles", 0, 0)
            source.reopen()
            alone = measure_stages(package, source, chosen.frames, override(run, {"tiles": "none"}))
    if chosen.as_json:
        tiles = (
            {} if alone is None else {"images": times.images, "rounds": times.rounds, "whole": asdict(alone.summary)}
        )
        emit_json(
            {"package": str(package.folder), "where": times.where, **asdict(times.summary), "tiles": tiles or None}
        )
        return
    click.echo(f"{package.manifest.model} on {source.name}; from frames to boxes: {times.where}\n{times.summary}")
    if alone is not None:
        click.echo(cost_of_tiles(times, alone))


def _load(target: Path, chosen: BenchOptions) -> None:
    from edgesparse import device
    from edgesparse.bench import throughput
    from edgesparse.bench.cameras import Demand
    from edgesparse.bench.page import COLUMNS, page, row

    demand = Demand(chosen.fps, chosen.max_age)
    workload = throughput.Workload(chosen.batches, chosen.streams or [1], demand, chosen.seconds)
    candidates = chosen.candidates.split(",") if chosen.candidates else None
    with progress() as advance:
        name, loads = throughput.of_target(target, workload, candidates, chosen.store, advance)
    summary, clocks = throughput.summary(loads, demand), str(device.clocks())
    machine = device.probe()
    if chosen.html:
        about = f"{machine.model or machine.gpu or machine.cpu}; {clocks}"
        text = page(f"{name}: throughput", about, summary, loads)
        write(chosen.html, lambda path: path.write_text(text))
        complain(f"wrote {chosen.html}")
    if chosen.as_json:
        rows = [asdict(load) for load in loads]
        emit_json({"model": name, "demand": asdict(demand), "loads": rows, "summary": summary, "clocks": clocks})
        return
    table(name, COLUMNS, map(row, loads), numbers=len(COLUMNS) - 1)
    click.echo(summary)


def numbers(option: str, text: str | None) -> list[int]:
    """Return the whole numbers in text such as `1,2,4`, without duplicates; none if the option is not set."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= MOST for part in parts):
        raise click.UsageError(f"{option}: found {text}, needed whole numbers from 1 to {MOST}, as in 1,2,4")
    return list(dict.fromkeys(map(int, parts)))
