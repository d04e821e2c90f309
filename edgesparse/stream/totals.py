"""What a camera has counted, as JSON-compatible values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgesparse.runtime.counts import DIRECTIONS, Counts
from edgesparse.stream.sinks.draw import class_name

Totals = dict[str, dict[str, dict[str, Any]]]


def totals(counts: Counts, names: Sequence[str]) -> Totals:
    """Return what was counted so far as JSON-compatible values, all of it in total and per class.

    `lines`: crossings `in` and `out` per line. `zones`: per zone, objects that `entered` and `left`, and for how many
    `seconds` in total those that left had been there.
    """
    if not counts.tracked:
        return {"lines": {}, "zones": {}}
    lines: dict[str, dict[str, Any]] = {
        line: {direction: _part(counts.crossings_of(line, direction), names) for direction in DIRECTIONS}
        for line in counts.lines
    }
    zones = {
        zone: {
            "entered": _part(counts.entries_of(zone), names),
            "left": _part({class_id: count for class_id, (count, _) in counts.exits_of(zone).items()}, names),
            "seconds": _part({class_id: seconds for class_id, (_, seconds) in counts.exits_of(zone).items()}, names),
        }
        for zone in counts.zones
    }
    return {"lines": lines, "zones": zones}


def _part(values: Mapping[int, float], names: Sequence[str]) -> dict[str, Any]:
    per_class = {class_name(names, class_id): round(value, 3) for class_id, value in values.items()}
    return {"total": round(sum(values.values()), 3), "classes": per_class}
