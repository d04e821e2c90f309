"""Plot of a soak as SVG: frame ages, memory, and when each failure happened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.soak_judge import Failure, Measured

WIDTH, LEFT, RIGHT = 1000, 60, 20
PANEL, GAP = 150, 50
BLUE, ORANGE = "#2878b5", "#e07b39"

Numbers = NDArray[np.float64]
Line = tuple[Numbers, Numbers, str]
"""Times, values, color."""


def plot(measured: Measured) -> str:
    """The SVG's text."""
    frames, samples, started, switched = measured.frames, measured.samples, measured.started, measured.switched
    end = float(samples[-1, 0]) - started
    step = max(1.0, end / 300)
    at = np.floor((frames[:, 1] - started) / step).astype(int)
    bins = np.unique(at)
    p50, p99 = (np.array([np.percentile(frames[at == b, 3], q) * 1e3 for b in bins]) for q in (50, 99))
    rate = np.array([(at == b).sum() / step for b in bins])
    times = (bins + 0.5) * step
    second = samples[:, 0] - started
    panels = [
        _panel(0, "age of frames, ms (p50, p99)", end, _two(times, p50, p99), top=1000),
        _panel(1, "frames per second, all cameras", end, [(times, rate, BLUE)]),
        _panel(2, "memory, MB (this process, capture processes)", end, _two(second, samples[:, 1], samples[:, 4])),
        _panel(3, "descriptors, threads", end, _two(second, samples[:, 2], samples[:, 3])),
    ]
    height = 4 * (PANEL + GAP) + 30
    marks = "".join(_mark(f, end, started, height) for f in measured.failures)
    slow = (
        f'<rect x="{_x(switched - started, end):.1f}" y="30" width="{_x(end, end) - _x(switched - started, end):.1f}"'
    )
    slow += f' height="{height - 60}" fill="#888" fill-opacity="0.12"><title>engine twice too slow</title></rect>'
    style = "font-family:sans-serif;font-size:12px;background:#fff"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" style="{style}">'
    legend = '<text x="60" y="18">red: a failure; gray: the engine is twice too slow for all cameras</text>'
    return f"{head}{legend}{marks}{slow}{''.join(panels)}</svg>\n"


def _two(times: Numbers, blue: Numbers, orange: Numbers) -> list[Line]:
    return [(times, blue, BLUE), (times, orange, ORANGE)]


def _x(seconds: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * seconds / end


def _mark(failure: Failure, end: float, started: float, height: int) -> str:
    left, right = _x(failure.started - started, end), _x(failure.over - started, end)
    box = f'<rect x="{left:.1f}" y="30" width="{max(1.0, right - left):.1f}" height="{height - 60}"'
    return f'{box} fill="#c33" fill-opacity="0.13"><title>{failure.kind}</title></rect>'


def _panel(
    number: int,
    title: str,
    end: float,
    lines: Sequence[Line],
    top: float | None = None,
) -> str:
    y = 40 + number * (PANEL + GAP)
    highest = max(float(values.max()) for _, values, _ in lines if len(values))
    limit = 1.1 * (min(highest, top) if top else highest) or 1.0
    paths = []
    for times, values, color in lines:
        shown = np.minimum(values, limit)
        points = " ".join(
            f"{_x(float(t), end):.1f},{y + PANEL * (1 - float(v) / limit):.1f}"
            for t, v in zip(times, shown, strict=True)
        )
        paths.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1"/>')
    axis = f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{PANEL}" fill="none" stroke="#bbb"/>'
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{y + PANEL * (1 - share) + 4:.0f}" text-anchor="end">{limit * share:.0f}</text>'
        for share in (0, 0.5, 1)
    )
    minutes = f'<text x="{WIDTH - RIGHT}" y="{y + PANEL + 15}" text-anchor="end">{end / 60:.1f} min</text>'
    return f'{axis}{ticks}{minutes}<text x="{LEFT}" y="{y + PANEL + 15}">{title}</text>{"".join(paths)}'
