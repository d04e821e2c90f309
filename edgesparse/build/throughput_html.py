"""The page of `bench --html`: frames a second against milliseconds, a line a candidate, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from edgesparse.build.throughput import Load

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 900, 420, 70, 45
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#66707f;--line:#dfe4ea;--ground:#fff;--good:#1a7f4b;--dense:#5b7fa6}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#98a2b0;--line:#323a45;--ground:#14181d;--good:#4cc38a;
--dense:#7fa3cc}}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1.2rem;color:var(--ink);
background:var(--ground)}
h1{font-size:1.5rem;margin:0}.soft{color:var(--soft)}svg{width:100%;height:auto;margin:1rem 0}
svg text{font-size:12px;fill:var(--soft)}svg .grid{stroke:var(--line)}svg .name{fill:currentColor}
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
        '<p class="soft">The engine with its copies; pictures are neither prepared nor decoded here.</p></html>\n'
    )


def _cells(load: Load) -> str:
    return "".join(f"<td{' class=n' if i else ''}>{escape(text)}</td>" for i, text in enumerate(row(load)))


def _kind(load: Load) -> str:
    return "sparse" if load.sparse else "dense"


def _plot(loads: Sequence[Load]) -> str:
    """Milliseconds (p99) to the right, frames a second upwards; 2:4 in green."""
    right = 1.15 * max((load.p99 for load in loads), default=0) or 1
    top = 1.1 * max((load.fps for load in loads), default=0) or 1

    def at(ms: float, fps: float) -> tuple[float, float]:
        wide, high = _WIDTH - _LEFT - 10, _HEIGHT - _BOTTOM - 10
        return round(_LEFT + ms / right * wide, 1), round(10 + (1 - fps / top) * high, 1)

    parts = []
    for step in range(6):
        (x, low), (_, y) = at(step / 5 * right, 0), at(0, step / 5 * top)
        parts.append(f'<line class="grid" x1="{x}" y1="10" x2="{x}" y2="{low}"/>')
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - 10}" y2="{y}"/>')
        parts.append(f'<text x="{x}" y="{low + 18}" text-anchor="middle">{step / 5 * right:.3g}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{step / 5 * top:.3g}</text>')
    parts.append(f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 6}" text-anchor="end">milliseconds, 99 % of the runs</text>')
    parts.append('<text x="4" y="22">frames/s</text>')
    for name, group in groupby(sorted(loads, key=lambda load: load.candidate), lambda load: load.candidate):
        line = sorted(group, key=lambda load: load.p99)
        points = [at(load.p99, load.fps) for load in line]
        joined = " ".join(f"{x},{y}" for x, y in points)
        dots = "".join(
            f'<circle cx="{x}" cy="{y}" r="3.5"><title>{escape(", ".join(row(load)))}</title></circle>'
            for (x, y), load in zip(points, line, strict=True)
        )
        x, y = points[-1]
        label = f'<text class="name" x="{x}" y="{y - 8}" text-anchor="end">{escape(name)}</text>'
        parts.append(f'<g class="{_kind(line[0])}"><polyline points="{joined}"/>{dots}{label}</g>')
    drawn = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="frames a second by latency">{drawn}</svg>'
