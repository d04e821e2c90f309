"""Plot of ladders as SVG: milliseconds predicted against mAP measured, a panel per detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KEPT, DROPPED = "#1f5fa8", "#999"

WIDTH, HEIGHT, GAP = 420, 260, 70


def plot(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The SVG's text, of the results per case."""
    size = f"0 0 {len(results) * (WIDTH + GAP) + 40} {HEIGHT + 90}"
    style = "font-family:sans-serif;font-size:12px;background:#fff"
    panels = "".join(
        part for column, (case, result) in enumerate(results.items()) for part in _panel(case, result, column)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" style="{style}">{panels}</svg>\n'


def _panel(case: str, result: Mapping[str, Any], column: int) -> Iterator[str]:
    left, top = column * (WIDTH + GAP) + GAP - 20, 40
    points = [(rung["name"], rung["ms"], rung["evaluated"], rung["outcome"]) for rung in result["rungs"]]
    if "student" in result:
        student = result["student"]
        points.append(("ReLU student", student["ms after slim"], student["evaluated"], "kept"))
    points = [point for point in points if point[1] is not None and point[2] is not None]
    most = 1.05 * max(ms for _, ms, _, _ in points)
    low, high = min(score for _, _, score, _ in points) - 0.5, max(score for _, _, score, _ in points) + 0.5
    yield f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>'
    yield f'<text x="{left}" y="{top - 10}">{case}: mAP against predicted ms, {result["device"]}</text>'
    yield f'<text x="{left}" y="{top + HEIGHT + 16}">0</text>'
    yield f'<text x="{left + WIDTH}" y="{top + HEIGHT + 16}" text-anchor="end">{most:.2f} ms</text>'
    yield f'<text x="{left - 4}" y="{top + 10}" text-anchor="end">{high:.1f}</text>'
    yield f'<text x="{left - 4}" y="{top + HEIGHT}" text-anchor="end">{low:.1f}</text>'
    for number, (name, ms, score, outcome) in enumerate(points):
        x, y = left + WIDTH * ms / most, top + HEIGHT * (high - score) / (high - low)
        color = KEPT if outcome == "kept" else DROPPED
        anchor, shift = ("end", -8) if ms > most / 2 else ("start", 8)
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>'
        down = (4, 17, -9)[number % 3]
        yield f'<text x="{x + shift:.1f}" y="{y + down:.1f}" text-anchor="{anchor}" fill="{color}">{name}</text>'
