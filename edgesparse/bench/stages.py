"""Milliseconds per stage of the frame loop, one frame after another, so that stages do not overlap."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edgesparse.builder.targets import open_detector
from edgesparse.package.store import Package
from edgesparse.stream import pipeline
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sources.base import Source
from edgesparse.stream.summary import Summary

WARM_UP = 20
"""Frames to run before the measurement."""


@dataclass(frozen=True)
class StageTimes:
    """The summary of the run, with milliseconds per stage, and where frames become boxes (CPU or GPU)."""

    summary: Summary
    where: str


def measure_stages(package: Package, source: Source, frames: int) -> StageTimes:
    """Run a package on `frames` frames of a source that can be reopened. Raises what `pipeline.run` raises."""
    with open_detector(package) as detector, JsonLines(os.devnull, detector.spec.classes, force=True) as sink:
        pipeline.run(source, detector, limit=min(WARM_UP, source.total or WARM_UP), depth=1)
        source.reopen()
        summary = pipeline.run(source, detector, [sink], limit=frames, depth=1)
        return StageTimes(summary, detector.where)
