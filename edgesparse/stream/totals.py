"""What a camera has counted, as JSON-compatible values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgesparse.runtime.counts import DIRECTIONS, Counts
from edgesparse.stream.sinks.draw import class_name

_Value = TypeVar("_Value")
Totals = dict[str, dict[str, dict[str, Any]]]


def totals(counts: Counts, names: Sequence[str]) -> Totals:
    """Return what was counted so far as JSON-compatible values, all of it in total and per class.

    `lines`: crossings `in` and `out` per line. `zones`: per zone, objects that `entered` and `left`, and for how many
    `seconds` in total those that left had been there.
    """
    if not counts.tracked:
        return {"lines": {}, "zones": {}}
    crossed, entered, left = grouped(counts.crossed), grouped(counts.entered), grouped(counts.left)
    lines: dict[str, dict[str, Any]] = {
        line: {direction: _part(crossed.get((line, direction), {}), names) for direction in DIRECTIONS}
        for line in counts.lines
    }
    zones = {
        zone: {
            "entered": _part(entered.get((zone,), {}), names),
            "left": _part({class_id: count for class_id, (count, _) in left.get((zone,), {}).items()}, names),
            "seconds": _part({class_id: seconds for class_id, (_, seconds) in left.get((zone,), {}).items()}, names),
        }
        for zone in counts.zones
    }
    return {"lines": lines, "zones": zones}


def grouped(counts: Mapping[Any, _Value]) -> dict[tuple[str, ...], dict[int, _Value]]:
    """Return the values per class id, in order, by the rest of their keys."""
    groups: dict[tuple[str, ...], dict[int, _Value]] = {}
    for key in sorted(counts):
        groups.setdefault(key[:-1], {})[key[-1]] = counts[key]
    return groups


def _part(values: Mapping[int, float], names: Sequence[str]) -> dict[str, Any]:
    per_class = {class_name(names, class_id): round(value, 3) for class_id, value in values.items()}
    return {"total": round(sum(values.values()), 3), "classes": per_class}
