#!/usr/bin/env python3
"""Find phrases and names that CONTRIBUTING rules out, in source, tests and documentation.

Prints one per line with its location and what to write instead; exit code 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".cfg", ".toml", ".sh", ".cu", ".cuh", ".html", ".js", ".j2", ""}
NOT_OURS = re.compile(
    r"^(LICENSE|CHANGELOG\.md|CONTRIBUTING\.md|benchmarks/results/|benchmarks/data/|scripts/language\.py|docs/images/)"
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
PATTERNS = {instead: re.compile(pattern, re.IGNORECASE) for instead, pattern in PHRASES.items()}
NAMES = {"said", "found", "made", "given", "one", "there", "asked", "wanted", "gone", "told"}
"""Never the name of a variable, parameter, field or function: use a noun for a thing and a verb for a function."""


def files() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    paths = [ROOT / name for name in names if name and not NOT_OURS.match(name)]
    return [path for path in paths if path.suffix in SUFFIXES and path.is_file()]


def slips(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with such a phrase: its number, and what to write instead."""
    for number, line in enumerate(text.splitlines(), 1):
        for instead, pattern in PATTERNS.items():
            if pattern.search(line):
                yield number, f"write '{instead}': {line.strip()[:140]}"


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


def name_slips(code: str) -> Iterator[tuple[int, str]]:
    """Yield the line number of each such name, and the name."""
    for name, number in bound_names(ast.parse(code)):
        if name.strip("_") in NAMES:
            yield number, f"choose a noun or a verb instead of the name {name}"


def main() -> int:
    problems = []
    for path in files():
        text = path.read_text()
        both = [*slips(text), *(name_slips(text) if path.suffix == ".py" else ())]
        problems += [f"{path.relative_to(ROOT)}:{number}: {what}" for number, what in both]
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
