"""The page of `bench --html`: throughput against latency, with a line per candidate, and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from edgesparse.bench.throughput import Load
from edgesparse.pages.html import Row, document, paragraph, table, text

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 900, 420, 70, 130, 45
_BETWEEN = 14
"""Smallest distance between two names next to the plot."""
_STYLE = """
svg{width:100%;height:auto;margin:1rem 0}svg text{font-size:12px;fill:var(--soft)}
svg .grid{stroke:var(--line);fill:none}svg .name{fill:currentColor}
.dense{color:var(--dense)}.sparse{color:var(--sparse)}polyline{fill:none;stroke:currentColor;stroke-width:1.5}
circle{fill:currentColor}
"""
COLUMNS = ("candidate", "batch", "streams", "frames/s", "p50 ms", "p90 ms", "p99 ms", "cameras")


def row(load: Load) -> tuple[str, ...]:
    """Return a load's table row, a string per column."""
    times = (f"{load.p50:.2f}", f"{load.p90:.2f}", f"{load.p99:.2f}")
    return load.candidate, str(load.batch), str(load.streams), f"{load.fps:.1f}", *times, str(load.cameras)


def page(title: str, about: str, summary: str, loads: Sequence[Load]) -> str:
    """Return a self-contained page. `about` describes the machine, `summary` the result."""
    return document(
        title,
        f"<h1>{text(title)}</h1>",
        paragraph(about, "soft"),
        paragraph(f"{summary}."),
        _plot(loads),
        table(COLUMNS, (Row(row(load), kind=_kind(load)) for load in loads), range(1, len(COLUMNS))),
        paragraph("The engine with its copies; preparing and decoding images is not included.", "soft"),
        style=_STYLE,
    )


def _kind(load: Load) -> str:
    return "sparse" if load.sparse else "dense"


def _plot(loads: Sequence[Load]) -> str:
    """Plot frames per second against milliseconds (p99); a line joins the stream counts of a batch size."""
    across = _step(max((load.p99 for load in loads), default=0))
    upward = _step(max((load.fps for load in loads), default=0))
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - 30

    def at(ms: float, fps: float) -> tuple[float, float]:
        return round(_LEFT + ms / across / 5 * wide, 1), round(30 + (1 - fps / upward / 5) * high, 1)

    parts = []
    for i in range(6):
        (x, low), (_, y) = at(i * across, 0), at(0, i * upward)
        parts.append(f'<path class="grid" d="M{x} 30V{low}M{_LEFT} {y}H{_LEFT + wide}"/>')
        parts.append(f'<text x="{x}" y="{low + 18}" text-anchor="middle">{i * across:g}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{i * upward:g}</text>')
    parts.append(f'<text x="{_LEFT + wide}" y="{_HEIGHT - 6}" text-anchor="end">milliseconds, 99 % of the runs</text>')
    parts.append(f'<text x="{_LEFT}" y="16">frames per second</text>')
    by_name = groupby(sorted(loads, key=lambda load: load.candidate), lambda load: load.candidate)
    below = -math.inf
    for candidate in sorted((list(group) for _, group in by_name), key=lambda group: -max(load.fps for load in group)):
        lines = [list(line) for _, line in groupby(candidate, lambda load: load.batch)]
        drawn = "".join(_line([(at(load.p99, load.fps), load) for load in line]) for line in lines)
        top = max(candidate, key=lambda load: load.fps)
        below = max(at(top.p99, top.fps)[1] + 4, below + _BETWEEN)
        label = f'<text class="name" x="{_LEFT + wide + 8}" y="{below:.1f}">{text(top.candidate)}</text>'
        parts.append(f'<g class="{_kind(top)}">{drawn}{label}</g>')
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="frames per second by latency">{inside}</svg>'


def _line(points: Sequence[tuple[tuple[float, float], Load]]) -> str:
    joined = " ".join(f"{x},{y}" for (x, y), _ in points)
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="3.5"><title>{text(", ".join(row(load)))}</title></circle>'
        for (x, y), load in points
    )
    return f'<polyline points="{joined}"/>{dots}'


def _step(largest: float) -> float:
    """Return a round number such that five of it slightly exceed `largest`."""
    least = 1.05 * largest / 5 or 1.0
    power = 10 ** math.floor(math.log10(least))
    return float(next(power * digit for digit in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * digit >= least))
