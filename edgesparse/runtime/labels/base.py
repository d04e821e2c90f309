"""What every label format becomes, and the faults that are collected while one is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Size = tuple[int, int]
"""Width and height in pixels."""
Xywh = tuple[float, float, float, float]
"""Left, top, width and height: in pixels, or 0..1 where labels are relative to the image's size."""
EXAMPLES = 3
LONGEST = 120
"""Characters of an example in a message."""


@dataclass(frozen=True)
class LabelledImage:
    """One image. `number` counts from 1; `size` is the labels' own statement, None where they have none."""

    number: int
    name: str
    path: Path
    size: Size | None = None


@dataclass(frozen=True)
class LabelledBox:
    """One box of the image `image`, in the category at the index `category`. `area` is None where it is the box's."""

    image: int
    category: int
    xywh: Xywh
    area: float | None = None
    crowd: bool = False
    source: str = ""
    """Where it is in the file, for messages."""


@dataclass(frozen=True)
class Category:
    """A class of the data set: its own id, and its name, which is the id's text where it has none."""

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
    """How many there are in all, where that is part of the evidence."""

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        shown = f" ({', '.join(self.examples)}{more})" if self.examples else ""
        of = f" of {self.total}" if self.total else ""
        return f"{self.problem}: {self.count}{of}{shown}; {self.fix}"


def one_line(text: str) -> str:
    """Text of a file as it can be printed in a message: on one line, short, and valid Unicode."""
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


@dataclass(frozen=True)
class Content:
    """What a reader of one format found. `relative`: boxes count in shares of their image's size."""

    images: tuple[LabelledImage, ...]
    boxes: tuple[LabelledBox, ...]
    categories: tuple[Category, ...]
    folder: Path
    relative: bool = False
