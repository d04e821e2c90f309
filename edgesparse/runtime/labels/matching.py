"""Matches a detector's classes with the categories of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from edgesparse.errors import ConfigError
from edgesparse.runtime.labels.base import Category

ClassMapping = tuple[int | None, ...]
"""For each class of the detector, the index of its category, or None."""


def match(names: Sequence[str], categories: Sequence[Category], used: Sequence[int], where: str) -> ClassMapping:
    """Match by name, ignoring case and surrounding spaces; by order if the detector's classes are only numbered.

    `used` are the indices of the categories that have boxes: the others need no class. Raises ConfigError, naming what
    matches nothing.
    """
    by_name = _by_name(names, categories)
    unmatched = [index for index in used if index not in by_name]
    if not unmatched:
        return by_name
    if _numbered(names) or _numbered([category.name for category in categories]):
        ordered = by_order(names, categories, used)
        if ordered is not None:
            return ordered
    missing = ", ".join(repr(categories[index].name) for index in unmatched[:5]) + (", ..." * (len(unmatched) > 5))
    free = [name for name, index in zip(names, by_name, strict=True) if index is None]
    having = f"'{', '.join(free[:5])}{', ...' * (len(free) > 5)}'" if free else "none left"
    raise ConfigError(
        f"{where}: {len(unmatched)} of {len(used)} categories are no class of the detector: found {missing}, needed of "
        f"its {len(names)} classes {having}: rename the categories, or set 'classes:' in the recipe or --names"
    )


def by_order(names: Sequence[str], categories: Sequence[Category], used: Sequence[int]) -> ClassMapping | None:
    """Match the categories in the order of their ids, without unused ones if there are too many."""
    if len(names) == len(categories):
        return tuple(range(len(names)))
    first = min(used, default=0)
    if len(names) == len(categories) - first:
        return tuple(range(first, len(categories)))
    return None


def guesses(names: Sequence[str], categories: Sequence[Category], used: Sequence[int]) -> dict[str, ClassMapping]:
    """Return mappings that data sets are known to need, by name, for `check-labels` to score."""
    count, total = len(names), len(categories)
    ids = {category.id: index for index, category in enumerate(categories)}
    mappings: dict[str, ClassMapping] = {"by name": _by_name(names, categories)}
    if (ordered := by_order(names, categories, used)) is not None:
        mappings["in the order of the category ids"] = ordered
    for offset, words in ((0, "category id = class"), (1, "category id = class + 1")):
        mappings[words] = tuple(ids.get(number + offset) for number in range(count))
    alphabetical = sorted(range(total), key=lambda index: categories[index].name.casefold())
    mappings["categories in alphabetical order"] = tuple(alphabetical[i] if i < total else None for i in range(count))
    return {words: mapping for words, mapping in mappings.items() if any(index is not None for index in mapping)}


def _by_name(names: Sequence[str], categories: Sequence[Category]) -> ClassMapping:
    exact = {category.name: index for index, category in enumerate(categories)}
    alike: dict[str, list[int]] = {}
    for index, category in enumerate(categories):
        alike.setdefault(_plain(category.name), []).append(index)
    twice = {plain for plain in map(_plain, names) if sum(_plain(name) == plain for name in names) > 1}
    result: list[int | None] = []
    for name in names:
        plain = _plain(name)
        similar = alike.get(plain, [])
        result.append(exact.get(name, similar[0] if len(similar) == 1 and plain not in twice else None))
    return tuple(result)


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _numbered(names: Sequence[str]) -> bool:
    return all(name.strip().isdecimal() for name in names)
