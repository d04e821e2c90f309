"""Phrases and names that CONTRIBUTING rules out, in source, tests and documentation.

`python tests/test_language.py` lists every slip with its location.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".cfg", ".toml", ".sh", ".cu", ".cuh", ".html", ".js", ".j2", ""}
NOT_OURS = re.compile(
    r"^(LICENSE|CHANGELOG\.md|CONTRIBUTING\.md|benchmarks/results/|benchmarks/data/|tests/test_language\.py|docs/images/)"
)

_THINGS = (
    "frames|images|milliseconds|microseconds|seconds|ms|us|µs|MB|GB|megabytes|bytes|cycles|clocks|times|runs|boxes"
)
_UNITS = "second|minute|hour|layer|stage|class|camera|frame|image|tensor|channel|device|process|batch|row|engine|run"
PHRASES = {
    "per": rf"\b(?:{_THINGS}) an? (?:{_UNITS})\b",
    "interleaved": r"\bby turns\b",
    "is in, is stored in": r"\b(?:lies?|lay) (?:in|on|beside|behind|under|there)\b",
    "fix": r"\bmend(?:s|ed|ing)?\b",
    "image": r"(?<!--)\bpictures?\b",
    "continuously": r"\bday and night\b",
    "zero": r"\bnoughts?\b",
    "again": r"\banew\b",
    "exists, preallocated": r"\b(?:is|are) there already\b",
    "report": r"\btells? of\b",
    "quantize, equalize, recognize, ...": (
        r"(?<!\")\b\w*(?:quanti|equali|recogni|normali|initiali|optimi|seriali|summari|organi)s(?:e|es|ed|er|ing|ation)\b"
    ),
    "gray, neighbor, behavior": r"\b(?:grey(?!\")|neighbours?|behaviour)\b",
    "the construction": r"\bthe making\b",
    "beforehand": r"\bmade ready\b",
}
"""Patterns of slips, by what to write instead."""
NAMES = {"said", "found", "made", "given", "one", "there", "asked", "wanted", "gone", "told"}
"""Never the name of a variable, parameter, field or function: use a noun for a thing and a verb for a function."""


def files() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    paths = [ROOT / name for name in names if name and not NOT_OURS.match(name)]
    return [path for path in paths if path.suffix in SUFFIXES and path.is_file()]


def slips(pattern: str) -> Iterator[str]:
    """Yield every line with the phrase, and its location."""
    expression = re.compile(pattern, re.IGNORECASE)
    for path in files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if expression.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: {line.strip()[:140]}"


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a file gives to variables, parameters, fields and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def name_slips() -> Iterator[str]:
    for path in files():
        if path.suffix == ".py":
            for name, line in bound_names(ast.parse(path.read_text())):
                if name.strip("_") in NAMES:
                    yield f"{path.relative_to(ROOT)}:{line}: {name}"


@pytest.mark.parametrize("instead", PHRASES)
def test_no_file_has_the_phrase(instead: str) -> None:
    lines = list(slips(PHRASES[instead]))
    assert lines == [], f"write '{instead}':\n" + "\n".join(lines)


def test_names_are_nouns_and_verbs() -> None:
    assert list(name_slips()) == []


@pytest.mark.parametrize(
    ("instead", "text"),
    [
        ("per", "30 frames a second"),
        ("fix", "what mends it"),
        ("image", "a picture"),
        ("interleaved", "timed by turns"),
    ],
)
def test_every_pattern_matches_its_slip(instead: str, text: str) -> None:
    assert re.search(PHRASES[instead], text)


def test_every_kind_of_name_is_checked() -> None:
    code = "def made(given): found = 1\nfor one in x: self.said = 2\n"
    assert {name for name, _ in bound_names(ast.parse(code))} == {"made", "given", "found", "one", "said"}


if __name__ == "__main__":
    for what, expression in PHRASES.items():
        lines = list(slips(expression))
        print(f"\n{what}: {len(lines)}", *lines, sep="\n  ")
    lines = list(name_slips())
    print(f"\nnames: {len(lines)}", *lines, sep="\n  ")
    sys.exit(0)
