"""What was counted in a frame, and the totals, for JSON: as values, and as their text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

from edgesparse.runtime.counts import DIRECTIONS, Counts
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.totals import grouped, totals

_quoted = lru_cache(json.dumps)


def counted(counts: Counts, names: Sequence[str]) -> dict[str, object]:
    """Return the `crossings` of lines, what `entered` and `left` zones, as far as there are any, and the `totals`."""

    def of(track_id: int, class_id: int) -> dict[str, object]:
        return {"track": track_id, "class_id": class_id, "class": class_name(names, class_id)}

    crossings = [{"line": c.line, "direction": c.direction, **of(c.track_id, c.class_id)} for c in counts.crossings]
    entered = [{"zone": stay.zone, **of(stay.track_id, stay.class_id)} for stay in counts.entries]
    left = [
        {"zone": stay.zone, **of(stay.track_id, stay.class_id), "seconds": round(stay.seconds, 3)}
        for stay in counts.exits
    ]
    happened = {"crossings": crossings, "entered": entered, "left": left}
    return {**{key: values for key, values in happened.items() if values}, "totals": totals(counts, names)}


def counted_text(counts: Counts, names: Sequence[str]) -> str:
    """Return what `json.dumps` returns for `counted`, put together from texts."""

    def of(track_id: int, class_id: int) -> str:
        return f'"track": {track_id}, "class_id": {class_id}, "class": {_quoted(class_name(names, class_id))}'

    crossings = [
        f'{{"line": {_quoted(c.line)}, "direction": "{c.direction}", {of(c.track_id, c.class_id)}}}'
        for c in counts.crossings
    ]
    entered = [f'{{"zone": {_quoted(stay.zone)}, {of(stay.track_id, stay.class_id)}}}' for stay in counts.entries]
    left = [
        f'{{"zone": {_quoted(stay.zone)}, {of(stay.track_id, stay.class_id)}, "seconds": {round(stay.seconds, 3)}}}'
        for stay in counts.exits
    ]
    happened = {"crossings": crossings, "entered": entered, "left": left}
    parts = [f'"{key}": [{", ".join(texts)}]' for key, texts in happened.items() if texts]
    return "{" + ", ".join([*parts, f'"totals": {_totals_text(counts, names)}']) + "}"


def _totals_text(counts: Counts, names: Sequence[str]) -> str:
    if not counts.tracked:
        return json.dumps(totals(counts, names))
    crossed, entered, left = grouped(counts.crossed), grouped(counts.entered), grouped(counts.left)
    lines, zones = [], []
    for line in counts.lines:
        ways = [f'"{way}": {_part(crossed.get((line, way), {}), names)}' for way in DIRECTIONS]
        lines.append(f"{_quoted(line)}: {{{', '.join(ways)}}}")
    for zone in counts.zones:
        ended = left.get((zone,), {})
        number = _part({class_id: count for class_id, (count, _) in ended.items()}, names)
        seconds = _part({class_id: seconds for class_id, (_, seconds) in ended.items()}, names)
        began = _part(entered.get((zone,), {}), names)
        zones.append(f'{_quoted(zone)}: {{"entered": {began}, "left": {number}, "seconds": {seconds}}}')
    return f'{{"lines": {{{", ".join(lines)}}}, "zones": {{{", ".join(zones)}}}}}'


def _part(values: Mapping[int, float], names: Sequence[str]) -> str:
    classes = {class_name(names, class_id): value for class_id, value in values.items()}
    texts = ", ".join([f"{_quoted(name)}: {round(value, 3)}" for name, value in classes.items()])
    return f'{{"total": {round(sum(values.values()), 3)}, "classes": {{{texts}}}}}'
