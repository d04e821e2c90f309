"""The page of `bench --html`: frames a second against milliseconds, a line a candidate, and the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from edgesparse.bench.throughput import Load

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 900, 420, 70, 130, 45
_BETWEEN = 14
"""From one name beside the plot to the next, at least."""
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#66707f;--line:#dfe4ea;--ground:#fff;--good:#1a7f4b;--dense:#5b7fa6}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#98a2b0;--line:#323a45;--ground:#14181d;--good:#4cc38a;
--dense:#7fa3cc}}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1.2rem;color:var(--ink);
background:var(--ground)}
h1{font-size:1.5rem;margin:0}.soft{color:var(--soft)}svg{width:100%;height:auto;margin:1rem 0}
svg text{font-size:12px;fill:var(--soft)}svg .grid{stroke:var(--line);fill:none}svg .name{fill:currentColor}
.dense{color:var(--dense)}.sparse{color:var(--good)}polyline{fill:none;stroke:currentColor;stroke-width:1.5}
circle{fill:currentColor}table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
"""
COLUMNS = ("candidate", "batch", "at once", "frames/s", "p50 ms", "p90 ms", "p99 ms", "cameras")


def row(load: Load) -> tuple[str, ...]:
    """What the table says of one, a text a column."""
    times = (f"{load.p50:.2f}", f"{load.p90:.2f}", f"{load.p99:.2f}")
    return load.candidate, str(load.batch), str(load.streams), f"{load.fps:.1f}", *times, str(load.cameras)


def page(title: str, about: str, said: str, loads: Sequence[Load]) -> str:
    """One self-contained page. `about`: where it was measured; `said`: what comes of it, in words."""
    head = "".join(f"<th{' class=n' if i else ''}>{name}</th>" for i, name in enumerate(COLUMNS))
    body = "".join(f"<tr class={_kind(load)}>{_cells(load)}</tr>" for load in loads)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(about)}</p><p>{escape(said)}.</p>{_plot(loads)}'
        f"<table><tr>{head}</tr>{body}</table>"
        '<p class="soft">The engine with its copies; images are neither prepared nor decoded here.</p></html>\n'
    )


def _cells(load: Load) -> str:
    return "".join(f"<td{' class=n' if i else ''}>{escape(text)}</td>" for i, text in enumerate(row(load)))


def _kind(load: Load) -> str:
    return "sparse" if load.sparse else "dense"


def _plot(loads: Sequence[Load]) -> str:
    """Milliseconds (p99) to the right, frames a second upwards; a line joins the streams of a batch; 2:4 in green."""
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
    parts.append(f'<text x="{_LEFT}" y="16">frames a second</text>')
    by_name = groupby(sorted(loads, key=lambda load: load.candidate), lambda load: load.candidate)
    below = -math.inf
    for candidate in sorted((list(group) for _, group in by_name), key=lambda group: -max(load.fps for load in group)):
        lines = [list(line) for _, line in groupby(candidate, lambda load: load.batch)]
        drawn = "".join(_line([(at(load.p99, load.fps), load) for load in line]) for line in lines)
        top = max(candidate, key=lambda load: load.fps)
        below = max(at(top.p99, top.fps)[1] + 4, below + _BETWEEN)
        label = f'<text class="name" x="{_LEFT + wide + 8}" y="{below:.1f}">{escape(top.candidate)}</text>'
        parts.append(f'<g class="{_kind(top)}">{drawn}{label}</g>')
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="frames a second by latency">{inside}</svg>'


def _line(points: Sequence[tuple[tuple[float, float], Load]]) -> str:
    joined = " ".join(f"{x},{y}" for (x, y), _ in points)
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="3.5"><title>{escape(", ".join(row(load)))}</title></circle>'
        for (x, y), load in points
    )
    return f'<polyline points="{joined}"/>{dots}'


def _step(most: float) -> float:
    """A round number of which five are a little more than `most`."""
    least = 1.05 * most / 5 or 1.0
    power = 10 ** math.floor(math.log10(least))
    return float(next(power * digit for digit in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * digit >= least))
