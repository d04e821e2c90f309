"""What is wrong in a recipe, in words: one line that says what was found and what is needed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def nearest(name: str, known: Sequence[str]) -> str:
    """`: did you mean 'x'?`, or the known names when none is near."""
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f": did you mean '{near[0]}'?" if near else f": known here are {', '.join(known)}"


def printable(path: str | os.PathLike[str]) -> str:
    """The path as text that can be printed: bytes that are not UTF-8 are written as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def redact(url: str) -> str:
    """The address without what may hold credentials: user, password, query, and parts of the path that set something.

    A password may hold any sign: where an @ stands elsewhere than before the host, all but the scheme is left out.
    What is no address stays as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    before, _, query = re.sub("[?#]", "?", rest, count=1).partition("?")
    host, slash, path = before.partition("/")
    if "@" in path + query:
        return f"{scheme}://..."
    kept = "/".join("..." if re.search("[=&;]", part) else part for part in path.split("/"))
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{kept}"


def shown(value: Any) -> Any:
    """A value as JSON takes it, with each address that it holds redacted."""
    if isinstance(value, Mapping):
        return {key: shown(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown(inner) for inner in value]
    return redact(value) if isinstance(value, str) and re.match(r"\s*\w+://", value) else value


def sentence(problem: Any, keys: Callable[[Sequence[str]], list[str]], more: Mapping[str, Sequence[str]]) -> str:
    """One of pydantic's problems as 'key.path: what was found, what was needed'.

    `keys` gives those of a section by its path; `more`, by path, what is allowed beside what pydantic knows.
    """
    at = place(problem)
    path = ".".join(at)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{path}'{nearest(at[-1], keys(at[:-1]))}"
    if problem["type"] == "missing":
        return f"'{path}' is missing"
    found = problem["input"]
    needed = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    needed = re.sub(
        r"Tuple should have at (most|least) (\d+) items? after validation, not \d+", r"at \1 \2 of them", needed
    )
    needed = _PLAIN.get(needed, needed)
    if isinstance(found, str) and problem["type"] == "literal_error":
        return f"{path}: found '{_without_addresses(found)}'{nearest(found, [*_literals(needed), *more.get(path, ())])}"
    return f"{path}: found {_without_addresses(found)!r} ({kind(found)}), needed {needed}"


def _without_addresses(value: Any) -> Any:
    """The value itself, unless it holds an address, which may hold credentials."""
    if isinstance(value, str):
        return redact(value) if "://" in value else value
    return "..." if "://" in repr(value) else value


_PLAIN = {
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid array": "a list",
    "an object": "a mapping",
}


def place(problem: Any) -> tuple[str, ...]:
    """The key's path, less the names that pydantic gives to the branches of a union."""
    parts = map(str, problem["loc"])
    branches = ("str", "float", "constrained-float")
    return tuple(part for part in parts if not part.endswith("]") and part not in branches)


def _literals(message: str) -> list[str]:
    return message.replace("'", "").replace(" or ", ", ").split(", ")


def kind(value: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true/false", list: "a list"}
    if value is None:
        return "nothing"
    return names.get(type(value), "a mapping" if isinstance(value, dict) else type(value).__name__)


def nearest_file(file: Path) -> str:
    if not file.parent.is_dir():
        return f" (there is no folder {file.parent})"
    near = difflib.get_close_matches(file.name, [p.name for p in file.parent.iterdir()], 1, 0.6)
    return f": did you mean '{near[0]}'?" if near else ""
