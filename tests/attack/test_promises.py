"""Promise: every promise of docs/guide/security.md has its tests, and every test in this folder its promise there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "security.md"


def rows() -> dict[str, list[str]]:
    """The promises of the page, with the files of their tests."""
    cells = re.findall(r"^\| ([^|]+) \| [^|]+ \| (`tests/[^|]+) \|$", PAGE.read_text(), re.M)
    return {promise: re.findall(r"`([^`]+)`", files) for promise, files in cells}


def test_the_tests_of_every_promise_exist() -> None:
    promises = rows()
    assert len(promises) > 10
    for promise, files in promises.items():
        assert files and all((ROOT / name).is_file() for name in files), promise


def test_every_test_of_this_folder_is_listed_with_its_promise() -> None:
    listed = {name: promise for promise, names in rows().items() for name in names}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file != Path(__file__):
            first = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
            promise = first.removeprefix("Promise: ").removesuffix(".")
            name = file.relative_to(ROOT).as_posix()
            assert name in listed, f"{name} is not in {PAGE.name}"
            assert listed[name].lower() == promise.lower(), name
