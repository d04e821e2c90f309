#!/usr/bin/env python3
"""Check the size limits in CONTRIBUTING, and that edgesparse has no import cycles.

    scripts/structure.py              # one violation per line; exit code 1 if there are any
    scripts/structure.py --summary    # median and worst of length, parameters and complexity

A violation listed in structure_exceptions.txt is tolerated at the size listed there. A size that shrinks has to be
lowered in the list, and one that meets its limit has to be removed from it, so that the list only ever gets shorter.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("edgesparse", "apps", "benchmarks", "deploy", "examples", "scripts", "tests")
NOT_OURS = {"__pycache__", "scratch"}
EXCEPTIONS = Path(__file__).with_name("structure_exceptions.txt")
FILE_LINES, TEST_FILE_LINES, FUNCTION_LINES, PARAMETERS = 299, 399, 39, 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Size:
    """A measured value of the file or function `place`, and its limit."""

    kind: str
    place: str
    value: int
    limit: int

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.place


def source_files(root: Path) -> list[Path]:
    """Return all Python files in the repository, including scripts without a suffix."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))]
    return [path for path in paths if path.is_file() and not NOT_OURS & set(path.parts) and _is_python(path)]


def _is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        start = file.readline()
    return start.startswith(b"#!") and b"python" in start


def sizes(root: Path) -> Iterator[Size]:
    """Measure the length of every file, and the length, parameters and complexity of every function."""
    for path in source_files(root):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root).as_posix()
        yield Size("file-lines", name, len(text.splitlines()), TEST_FILE_LINES if in_tests(name) else FILE_LINES)
        for qualified, function in _functions(ast.parse(text)):
            place = f"{name}:{qualified}"
            yield Size("function-lines", place, function_lines(function), FUNCTION_LINES)
            yield Size("parameters", place, parameters(function), PARAMETERS)
            yield Size("complexity", place, complexity(function), sys.maxsize)  # ruff checks this limit


def in_tests(name: str) -> bool:
    return name.startswith("tests/")


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield f"{prefix}{node.name}", node
        named = isinstance(node, Function | ast.ClassDef)
        yield from _functions(node, f"{prefix}{node.name}." if named else prefix)  # type: ignore[attr-defined]


def function_lines(function: Function) -> int:
    """Count from `def` to the last line, without the docstring: a long explanation is not a reason to split a
    function."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def parameters(function: Function) -> int:
    """Count the parameters that a caller may pass. Command-line verbs, which click calls with their options, count as
    zero."""
    if any("click." in ast.unparse(decorator) for decorator in function.decorator_list):
        return 0
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def complexity(function: Function) -> int:
    """Return McCabe's cyclomatic complexity: one, plus one for every branch."""
    branches = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension)
    total = 1
    for node in ast.walk(function):
        if isinstance(node, branches) or (isinstance(node, ast.match_case) and not _matches_all(node)):
            total += 1
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
    return total


def _matches_all(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None


def imports(root: Path) -> dict[str, set[str]]:
    """Return the edgesparse modules that each module imports, including inside functions and under TYPE_CHECKING."""
    paths = {_module(path, root): path for path in (root / "edgesparse").rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                submodules = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= submodules & paths.keys() or {node.module}
        graph[module] = targets & paths.keys() - {module}
    return graph


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return a shortest cycle for every group of modules that import each other."""
    reached = {module: _reachable(graph, module) for module in graph}
    groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph}
    return [_way_round(graph, min(group)) for group in sorted(groups, key=sorted) if group]


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = graph[waiting.pop()] - seen
        seen |= fresh
        waiting.extend(fresh)
    return seen


def _way_round(graph: dict[str, set[str]], start: str) -> list[str]:
    """Return the shortest path from a module back to itself."""
    paths = [[start]]
    seen: set[str] = set()
    while True:
        path = paths.pop(0)
        for target in sorted(graph[path[-1]]):
            if target == start:
                return [*path, start]
            if target not in seen:
                seen.add(target)
                paths.append([*path, target])


def read_exceptions(path: Path) -> dict[tuple[str, str], int]:
    """Parse lines of kind, place, size and reason."""
    listed = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            fields = line.split(maxsplit=3)
            if len(fields) < 4 or not fields[2].isdigit():
                raise SystemExit(f"{path.name}:{number}: needed KIND PLACE SIZE REASON, found {line!r}")
            listed[fields[0], fields[1]] = int(fields[2])
    return listed


def breaches(measured: list[Size], listed: dict[tuple[str, str], int]) -> Iterator[str]:
    """Yield everything that exceeds its limit without being listed, and everything listed with a wrong size."""
    by_key = {size.key: size for size in measured}
    for size in measured:
        if size.value > size.limit and size.key not in listed:
            yield f"{size.place}: {size.value} {size.kind}, at most {size.limit}: split it"
    for (kind, place), value in listed.items():
        size_now = by_key.get((kind, place))
        if size_now is None or size_now.value <= size_now.limit:
            yield f"{place}: {kind} meets its limit: remove the line from {EXCEPTIONS.name}"
        elif size_now.value != value:
            remedy = "split it" if size_now.value > value else f"write {size_now.value} into {EXCEPTIONS.name}"
            yield f"{place}: {size_now.value} {kind}, listed with {value}: {remedy}"


def summary(measured: list[Size]) -> Iterator[str]:
    """Return a table of median and worst of each kind, for the source and for the tests."""
    for title, tests in (("source", False), ("tests", True)):
        for kind in ("file-lines", "function-lines", "parameters", "complexity"):
            those = [size for size in measured if size.kind == kind and in_tests(size.place) is tests]
            if those:
                worst = max(those, key=lambda size: size.value)
                middle = median(size.value for size in those)
                yield f"{title:7} {kind:15} median {middle:g}, worst {worst.value} ({worst.place}), of {len(those)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout to measure")
    parser.add_argument("--summary", action="store_true", help="print medians and worst values instead of checking")
    options = parser.parse_args()
    measured = list(sizes(options.root))
    if options.summary:
        print("\n".join(summary(measured)))
        return 0
    problems = list(breaches(measured, read_exceptions(EXCEPTIONS)))
    problems += [f"import cycle: {' -> '.join(way)}" for way in cycles(imports(options.root))]
    print("\n".join(sorted(problems)), file=sys.stderr, end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
