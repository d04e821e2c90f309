"""The common form of all label formats, and the faults collected while reading one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Size = tuple[int, int]
"""Width and height in pixels."""
Xywh = tuple[float, float, float, float]
"""Left, top, width and height: in pixels, or 0..1 if labels are relative to the image size."""
EXAMPLES = 3
LONGEST = 120
"""Most characters of an example in a message."""


@dataclass(frozen=True)
class LabeledImage:
    """One image. `number` counts from 1; `size` is what the labels state, None if they do not."""

    number: int
    name: str
    path: Path
    size: Size | None = None


@dataclass(frozen=True)
class LabeledBox:
    """One box in the image `image`, of the category at index `category`. `area` is None if it is the box's area."""

    image: int
    category: int
    xywh: Xywh
    area: float | None = None
    crowd: bool = False
    source: str = ""
    """Its position in the file, for messages."""
    segmentation: tuple[tuple[float, ...], ...] | dict[str, Any] | None = None
    """Its polygons, each x, y, x, y, ..., in the units of `xywh`; or COCO's run lengths."""
    keypoints: tuple[float, ...] | None = None
    """x, y and visibility (0 to 2) of each keypoint, x and y in the units of `xywh`."""


@dataclass(frozen=True)
class Category:
    """A class of the data set: its id, and its name, or else the id as text."""

    id: int | str
    name: str


@dataclass
class Fault:
    """One kind of fault. `fatal` faults make labels unusable; others are only reported."""

    problem: str
    fix: str
    fatal: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)
    total: int = 0
    """The total to compare the count with, if that matters."""

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        shown = f" ({', '.join(self.examples)}{more})" if self.examples else ""
        of = f" of {self.total}" if self.total else ""
        return f"{self.problem}: {self.count}{of}{shown}; {self.fix}"


def one_line(text: str) -> str:
    """Return text from a file in printable form: on one line, short, and valid Unicode."""
    printable = text.encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else " " for c in printable)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."


class Faults:
    """Collects faults by kind, with counts and a few examples."""

    def __init__(self) -> None:
        self._kinds: dict[str, Fault] = {}

    def add(self, problem: str, fix: str, example: str = "", *, fatal: bool = True) -> None:
        fault = self._kinds.setdefault(problem, Fault(problem, fix, fatal))
        fault.count += 1
        example = one_line(example)
        if example and len(fault.examples) < EXAMPLES and example not in fault.examples:
            fault.examples.append(example)

    def add_all(self, problem: str, fix: str, examples: Sequence[str], *, fatal: bool = True, total: int = 0) -> None:
        for example in examples:
            self.add(problem, fix, example, fatal=fatal)
            self._kinds[problem].total = total

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._kinds.values())

    @property
    def fatal(self) -> list[Fault]:
        return [fault for fault in self._kinds.values() if fault.fatal]


def key_of(value: object) -> str | None:
    """Return an id as text, so that 7, 7.0, "7" and "007" are the same id; None if it is not an id."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    text = str(value).strip()
    return str(int(text)) if text.isascii() and text.isdigit() and len(text) < 4000 else text or None


def number_of(value: object) -> float | None:
    """Return a finite number, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def require_unique(pairs: list[tuple[str, Any]]) -> None:
    """Raise ValueError for a JSON object that has a key twice: for json's `object_pairs_hook`."""
    keys = [key for key, _ in pairs]
    if repeated := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ValueError(f"the key '{one_line(repeated[0])}' occurs twice")


@dataclass(frozen=True)
class Content:
    """The content that a format's reader returns. `relative`: boxes are relative to the image size."""

    images: tuple[LabeledImage, ...]
    boxes: tuple[LabeledBox, ...]
    categories: tuple[Category, ...]
    folder: Path
    relative: bool = False
