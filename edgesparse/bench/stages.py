"""Milliseconds per stage of the frame loop, one frame after another, so that stages do not overlap."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edgesparse.builder.targets import open_detector
from edgesparse.config import Run
from edgesparse.package.store import Package
from edgesparse.stream import pipeline
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sources.base import Source
from edgesparse.stream.summary import Summary

WARM_UP = 20
"""Frames to run before the measurement."""


@dataclass(frozen=True)
class StageTimes:
    """The summary of the run, with milliseconds per stage, and where frames become boxes (CPU or GPU).

    `images`: how many images each frame was, the whole and its tiles, and in how many `rounds` the engine ran them.
    """

    summary: Summary
    where: str
    images: int
    rounds: int


def measure_stages(package: Package, source: Source, frames: int, run: Run | None = None) -> StageTimes:
    """Run a package on `frames` frames of a source that can be reopened, with the settings `run` or its own. Raises
    what `pipeline.run` raises.
    """
    with open_detector(package, run) as detector, JsonLines(os.devnull, detector.spec.classes, force=True) as sink:
        pipeline.run(source, detector, limit=min(WARM_UP, source.total or WARM_UP), depth=1)
        source.reopen()
        summary = pipeline.run(source, detector, [sink], limit=frames, depth=1)
        return StageTimes(summary, detector.where, *detector.images)


def cost_of_tiles(tiled: StageTimes, alone: StageTimes) -> str:
    """Return a sentence that compares frames with tiles and without."""
    first, second = (each.summary.latency["total"].p50 for each in (tiled, alone))
    times = f"{tiled.rounds} run{'s' if tiled.rounds > 1 else ''}"
    return (
        f"tiles: {tiled.images} images per frame in {times} of the engine, {first:.2f} ms; the whole frame alone "
        f"{second:.2f} ms: {first / max(second, 1e-6):.1f} times"
    )
