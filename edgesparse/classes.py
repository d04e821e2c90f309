"""Class names: from a list in the recipe, a file, or COCO."""

from __future__ import annotations

import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any

from edgesparse.errors import ConfigError
from edgesparse.files import read_checked
from edgesparse.wording import short

_NEEDED = "needed a list, 'auto', 'coco' or a file"
MOST_BYTES = 1_000_000


def named_classes(classes: str | tuple[str, ...], base: Path) -> str | tuple[str, ...]:
    """Return the value of `classes:`; a file's path, relative to `base`, becomes the names in that file."""
    return class_names(base / classes) if isinstance(classes, str) and classes not in ("auto", "coco") else classes


def class_names(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line, or from `names:` in the YAML of a dataset.

    There, `names` is a list or a mapping from 0, 1, 2 ... Names are text exactly as written, whatever YAML would take
    them for: `no`, `010` and `2024-01-01` are names. Raises ConfigError.
    """
    if path.suffix not in (".yaml", ".yml"):
        return _lines(path)
    from edgesparse import strict_yaml  # a finished package starts without it

    value = strict_yaml.read(path, "classes", _NEEDED, all_text=True)
    names = value.get("names") if isinstance(value, dict) else None
    if isinstance(names, dict):
        names = _by_number(path, names)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: needed 'names:' with a list of classes, or a mapping from 0, 1, 2 ...")
    return _checked(path, names)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = read_checked(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        bad_text = isinstance(error, UnicodeDecodeError)
        reason = "it is not UTF-8 text" if bad_text else getattr(error, "strerror", None) or error
        raise ConfigError(f"classes: cannot read {short(str(path), 300)!r}: {reason}; {_NEEDED}") from None
    return _checked(path, [line for line in map(str.strip, text.splitlines()) if line])


def _by_number(path: Path, names: dict[str, Any]) -> list[Any]:
    """The names in order; numbers are 0, 1, 2 ... without a gap."""
    numbers = {int(key): name for key, name in names.items() if key.isdecimal() and len(key) < 10}
    if len(numbers) < len(names):
        raise ConfigError(f"{path}: names: found keys that are no class ids, needed 0, 1, 2 ...")
    missing = sorted(set(range(len(numbers))) - numbers.keys())
    if missing:
        raise ConfigError(f"{path}: names: found {len(numbers)} names, but none for class {missing[0]}")
    return [numbers[number] for number in sorted(numbers)]


def _checked(path: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        raise ConfigError(f"{path} has no class names: needed one per line")
    for number, name in enumerate(names):
        if not name.strip() or any(unicodedata.category(character) == "Cc" for character in name):
            raise ConfigError(f"{path}: the name of class {number} is empty or has control characters: needed text")
    return tuple(names)


_UNUSED_IDS = frozenset((0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


def coco_names(ids: range | None = None) -> tuple[str, ...]:
    """Return the 80 class names of COCO in the order of their category ids.

    With `ids`, the name of each of these ids up to 90; those that COCO left out are named `unused 12` and so on.
    """
    names = tuple(resources.files("edgesparse").joinpath("coco.txt").read_text().splitlines())
    if ids is None:
        return names
    by_id = dict(zip((i for i in range(91) if i not in _UNUSED_IDS), names, strict=True))
    return tuple(by_id.get(i, f"unused {i}") for i in ids)
