"""Plot of growth as SVG: a panel per quantity, both axes logarithmic, with the line of linear growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.soak_plot import BLUE

COLUMNS, WIDTH, HEIGHT, GAP = 3, 290, 150, 60


def plot(curves: Sequence[Mapping[str, Any]]) -> str:
    """The SVG's text, of curves with quantity, cost, unit, at, values and slope."""
    rows = -(-len(curves) // COLUMNS)
    style = "font-family:sans-serif;font-size:12px;background:#fff"
    size = f"0 0 {COLUMNS * (WIDTH + GAP)} {rows * (HEIGHT + GAP) + 20}"
    panels = "".join(_panel(curve, *divmod(number, COLUMNS)) for number, curve in enumerate(curves))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" style="{style}">{panels}</svg>\n'


def _panel(curve: Mapping[str, Any], row: int, column: int) -> str:
    left, top = column * (WIDTH + GAP) + GAP - 10, row * (HEIGHT + GAP) + 30
    x, y = np.log(curve["at"]), np.log(curve["values"])
    linear = y[0] + x - x[0]
    low, high = float(y.min()), float(max(y.max(), linear.max()))

    def line(values: Any, style: str) -> str:
        across = left + WIDTH * (x - x[0]) / (x[-1] - x[0])
        down = top + HEIGHT * (1 - (values - low) / (high - low))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
        return f'<polyline points="{points}" fill="none" {style}/>'

    ends = ((left, "start", curve["at"][0]), (left + WIDTH, "end", curve["at"][-1]))
    return "".join(
        (
            f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>',
            line(linear, 'stroke="#bbb" stroke-dasharray="4 3"'),
            line(y, f'stroke="{BLUE}" stroke-width="2"'),
            f'<text x="{left}" y="{top - 6}">{curve["cost"]}: slope {curve["slope"]:.2f}</text>',
            *(f'<text x="{at}" y="{top + HEIGHT + 14}" text-anchor="{to}">{n:,}</text>' for at, to, n in ends),
            f'<text x="{left + WIDTH / 2}" y="{top + HEIGHT + 14}" text-anchor="middle">{curve["quantity"]}</text>',
            f'<text x="{left - 4}" y="{top + 10}" text-anchor="end">{np.exp(high):.3g}</text>',
            f'<text x="{left - 4}" y="{top + HEIGHT}" text-anchor="end">{np.exp(low):.2g} {curve["unit"]}</text>',
        )
    )
