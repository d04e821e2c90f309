"""The table "Where is ..." of docs/architecture.md, and its map, follow the code."""

from __future__ import annotations

import re

from markdown_blocks import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text()
ROWS = re.findall(r"^\| (.+\?) \| `([^`]+)` \| `([^`]+)` \|$", TEXT, re.MULTILINE)


def test_every_answer_is_where_the_table_says() -> None:
    assert len(ROWS) >= 25
    for question, file, symbol in ROWS:
        assert (ROOT / file).is_file(), f"{question} no file {file}"
        assert symbol in (ROOT / file).read_text(), f"{question} no '{symbol}' in {file}"


def test_every_row_of_the_table_is_checked() -> None:
    table = TEXT.partition("## Where is ...")[2].partition("\n## ")[0]
    assert len(ROWS) == table.count("\n| ") - 1  # without the header row


def test_every_path_that_the_documentation_names_exists() -> None:
    pattern = re.compile(r"`((?:edgesparse|scripts|tests|deploy|benchmarks|apps|examples)/[\w./-]+)`")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {path}"
        for page in pages
        for path in pattern.findall(page.read_text())
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_the_map_has_every_folder_and_every_module() -> None:
    """Each part of the package is in the map once, and everything in the map exists."""
    part = TEXT.partition("## The map")[2].partition("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (`[^|]+) \|", part, re.MULTILINE))
    named = re.findall(r"`([\w.]+/?)`", first_cells)
    package = ROOT / "edgesparse"
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert {name for name in named if name.endswith("/")} == folders
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    mentioned = {name for name in named if name.endswith(".py")}
    assert mentioned <= modules
    assert modules - mentioned <= {"version.py"}
