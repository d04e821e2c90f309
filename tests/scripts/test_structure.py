"""The counts of scripts/check: what is measured, what is a violation, and which imports form a cycle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import structure
from structure import Size


def _function(text: str) -> structure.Function:
    node = ast.parse(text).body[0]
    assert isinstance(node, structure.Function)
    return node


def test_the_docstring_and_decorators_do_not_count_as_lines() -> None:
    text = '@cache\ndef f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    return a\n'
    assert structure.function_lines(_function(text)) == 4


@pytest.mark.parametrize(
    ("signature", "count"),
    [
        ("def f(a, /, b, *rest, c, **more): ...", 5),
        ("def f(self, a): ...", 1),
        ("@click.option('--x')\ndef f(a, b, c, d, e, f, g, h): ...", 0),
    ],
)
def test_parameters(signature: str, count: int) -> None:
    assert structure.parameters(_function(signature)) == count


def test_complexity_counts_branches() -> None:
    text = """
def f(a):
    if a and a > 1 or a < -1:
        return [x for x in a if x]
    match a:
        case 1:
            pass
        case _:
            pass
    try:
        return a if a else 0
    except ValueError:
        while a:
            a -= 1
"""
    assert structure.complexity(_function(text.strip())) == 9


def test_an_overrun_is_a_breach_unless_it_is_listed_at_that_size() -> None:
    long = Size("function-lines", "a.py:f", 50, 39)
    assert list(structure.breaches([long], {})) == ["a.py:f: 50 function-lines, at most 39: split it"]
    assert list(structure.breaches([long], {long.key: 50})) == []


@pytest.mark.parametrize(
    ("value", "remedy"), [(60, "split it"), (45, "write 45 into"), (39, "remove the line"), (None, "remove the line")]
)
def test_the_list_of_exceptions_only_gets_shorter(value: int | None, remedy: str) -> None:
    sizes = [] if value is None else [Size("function-lines", "a.py:f", value, 39)]
    [breach] = structure.breaches(sizes, {("function-lines", "a.py:f"): 50})
    assert remedy in breach


def test_an_exception_without_a_reason_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "list.txt").write_text("# title\n\nparameters a.py:f 7\n")
    with pytest.raises(SystemExit, match=r"list.txt:3: needed KIND PLACE SIZE REASON"):
        structure.read_exceptions(path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "edgesparse/__init__.py": "",
        "edgesparse/a.py": "from edgesparse.room import b\n",
        "edgesparse/room/__init__.py": "",
        "edgesparse/room/b.py": "def f():\n    from edgesparse.room.c import g\n",
        "edgesparse/room/c.py": "import edgesparse.a\nimport os\n\ndef g(): ...\n",
        "edgesparse/d.py": "from edgesparse.a import f\n",
        "scripts/run": "#!/usr/bin/env python3\nprint()\n",
        "scripts/other": "#!/bin/sh\necho\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_cycle_through_a_function_is_seen(checkout: Path) -> None:
    way = ["edgesparse.a", "edgesparse.room.b", "edgesparse.room.c", "edgesparse.a"]
    assert structure.cycles(structure.imports(checkout)) == [way]
    (checkout / "edgesparse/room/c.py").write_text("import os\n")
    assert structure.cycles(structure.imports(checkout)) == []


def test_scripts_without_a_suffix_are_measured(checkout: Path) -> None:
    names = [path.relative_to(checkout).as_posix() for path in structure.source_files(checkout)]
    assert "scripts/run" in names
    assert "scripts/other" not in names


def test_the_summary_names_the_worst(checkout: Path) -> None:
    lines = list(structure.summary(list(structure.sizes(checkout))))
    assert "source  file-lines      median 1, worst 4 (edgesparse/room/c.py), of 7" in lines
