"""What was counted in a frame, and the totals, for JSON: as values, and as their text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from edgesparse.runtime.counts import DIRECTIONS, Counts
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.totals import totals

_quoted = lru_cache(json.dumps)
_Value = TypeVar("_Value")


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
    class_ids = {key[-1] for each in (counts.crossed, counts.entered, counts.left) for key in each}
    classes = {class_id: _quoted(class_name(names, class_id)) for class_id in class_ids}
    if not counts.tracked or len(set(classes.values())) < len(classes):
        return json.dumps(counted(counts, names))

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
    return "{" + ", ".join([*parts, f'"totals": {_totals_text(counts, classes)}']) + "}"


def _totals_text(counts: Counts, classes: Mapping[int, str]) -> str:
    crossed, entered, left = _grouped(counts.crossed), _grouped(counts.entered), _grouped(counts.left)
    lines, zones = [], []
    for line in counts.lines:
        ways = [f'"{way}": {_part(crossed.get((line, way), {}), classes)}' for way in DIRECTIONS]
        lines.append(f"{_quoted(line)}: {{{', '.join(ways)}}}")
    for zone in counts.zones:
        ended = left.get((zone,), {})
        number = _part({class_id: count for class_id, (count, _) in ended.items()}, classes)
        total = round(sum([seconds for _, seconds in ended.values()]), 3)
        seconds = ", ".join([f"{classes[class_id]}: {round(each, 3)}" for class_id, (_, each) in ended.items()])
        began = _part(entered.get((zone,), {}), classes)
        lasted = f'{{"total": {total}, "classes": {{{seconds}}}}}'
        zones.append(f'{_quoted(zone)}: {{"entered": {began}, "left": {number}, "seconds": {lasted}}}')
    return f'{{"lines": {{{", ".join(lines)}}}, "zones": {{{", ".join(zones)}}}}}'


def _part(numbers: Mapping[int, int], classes: Mapping[int, str]) -> str:
    texts = ", ".join([f"{classes[class_id]}: {number}" for class_id, number in numbers.items()])
    return f'{{"total": {sum(numbers.values())}, "classes": {{{texts}}}}}'


def _grouped(counts: Mapping[Any, _Value]) -> dict[tuple[str, ...], dict[int, _Value]]:
    """Return the values per class id, in their order, by the rest of their keys."""
    groups: dict[tuple[str, ...], dict[int, _Value]] = {}
    for key in sorted(counts):
        groups.setdefault(key[:-1], {})[key[-1]] = counts[key]
    return groups
