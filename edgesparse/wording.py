"""Parts of messages: what is wrong in a recipe, and similar names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesparse.redaction import is_address, redact, redact_text

LONGEST_VALUE = 80
"""Most characters of a value to quote in a message."""
_SECRET = re.compile(r"pass|secret|token|credential|auth", re.IGNORECASE)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `: did you mean 'x'?`, or the known names if none is similar."""
    near = difflib.get_close_matches(name[:200], known, 1, 0.6)
    return f": did you mean '{near[0]}'?" if near else f": known here are {', '.join(known)}"


def printable(path: str | os.PathLike[str]) -> str:
    """Return the path as text that can be printed: bytes that are not UTF-8 are written as \\xe9."""
    return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def explain(problem: Any, keys: Callable[[Sequence[str]], list[str]], more: Mapping[str, Sequence[str]]) -> str:
    """Describe one of pydantic's problems: 'key.path: found this, needed that'.

    `keys` returns the keys of the section at a path. `more` lists, by path, values that are allowed in addition to
    those known to pydantic.
    """
    path = key_path(problem)
    dotted = short(".".join(path))
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{dotted}'{nearest(path[-1], keys(path[:-1]))}"
    if problem["type"] == "missing":
        return f"'{dotted}' is missing"
    value = problem["input"]
    needed = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    needed = re.sub(
        r"(?:Tuple|Dictionary) should have at (most|least) (\d+) items? after validation, not \w+",
        r"at \1 \2 of them",
        needed,
    )
    for bound, plain in _BOUNDS:
        needed = needed.replace(bound, plain)
    needed = _PLAIN.get(needed, needed)
    quoted = _quoted(path, value)
    if isinstance(value, str) and problem["type"] == "literal_error":
        return f"{dotted}: found {quoted}{nearest(value, [*_literals(needed), *more.get(dotted, ())])}"
    return f"{dotted}: found {quoted} ({kind(value)}), needed {needed}"


def short(text: str, longest: int = LONGEST_VALUE) -> str:
    """Return text from a file on one line, printable and of a length that fits into a message."""
    line = "".join(filter(str.isprintable, " ".join(text.split())))
    return line if len(line) <= longest else f"{line[:longest]}..."


def _quoted(path: Sequence[str], value: Any) -> str:
    """Return the value for a message: short, without addresses and possible secrets."""
    if any(_SECRET.search(part) for part in path):
        return "..."
    if isinstance(value, str):
        text = repr(redact(value) if is_address(value) else redact_text(value))
    else:
        text = "'...'" if re.search(r":/|//", repr(value)) else repr(value)
    return short(text)


_BOUNDS = (
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("greater than", "more than"),
)
_PLAIN = {
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid array": "a list",
    "an object": "a mapping",
}


def key_path(problem: Any) -> tuple[str, ...]:
    """Return the path of the key, without the names that pydantic gives to the branches of a union."""
    parts = tuple(map(str, problem["loc"]))
    branch = re.compile(r"str|float|constrained-float|[\w-]+\[.*\]", re.DOTALL)
    path = tuple(part for part in parts if not branch.fullmatch(part))
    if problem["type"] == "extra_forbidden" and path[-1:] != parts[-1:]:  # a user's key may look like a branch name
        path += parts[-1:]
    return path or parts


def _literals(message: str) -> list[str]:
    return message.replace("'", "").replace(" or ", ", ").split(", ")


def kind(value: Any) -> str:
    """Return a description of a value's type."""
    names = {str: "text", int: "a whole number", float: "a number", bool: "true/false", list: "a list"}
    if value is None:
        return "nothing"
    return names.get(type(value), "a mapping" if isinstance(value, dict) else type(value).__name__)


def nearest_file(file: Path) -> str:
    """Return `: did you mean 'x'?` if the folder has a file of a similar name, or what is there instead of a file."""
    try:
        if file.exists():
            return f" ({'it is a folder' if file.is_dir() else 'it is not a regular file'})"
        if not file.parent.is_dir():
            return f" (there is no folder {short(str(file.parent), 300)})"
        near = difflib.get_close_matches(file.name, [path.name for path in file.parent.iterdir()], 1, 0.6)
    except (OSError, ValueError):  # no permission; a NUL or too long a name
        return ""
    return f": did you mean '{near[0]}'?" if near else ""
