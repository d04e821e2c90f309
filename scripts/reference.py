"""Write docs/reference/: verbs from click, keys from the pydantic models, exit codes from the exceptions, API names.

`python scripts/reference.py` writes the pages; `--check` only compares, and exits with 1 if one is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from reference_keys import MARK, cell, keys_page, paragraphs
from reference_limits import limits_page

import edgesparse
from edgesparse import errors
from edgesparse.cli import verbs
from edgesparse.config import Recipe
from edgesparse.service.settings import settings_type

FOLDER = Path(__file__).parents[1] / "docs" / "reference"


def verbs_page() -> str:
    """Every verb with its usage, help and options."""
    parts = [
        f"{MARK}# Verbs\n\nSource: `edgesparse/cli/`. The same text is printed by `edgesparse VERB --help`. "
        "Exit codes are in [exit-codes.md](exit-codes.md). Missing folders of outputs are created; existing files are "
        "only overwritten with `--force`.\n"
    ]
    context = click.Context(verbs, info_name="edgesparse")
    for command, inner in _commands(verbs, context):
        parts.append(f"## {inner.command_path}\n\n```text\n{_usage(command, inner)}\n```\n")
        parts.append(paragraphs(command.help or "") + "\n")
        rows = [row for parameter in command.params if (row := _option(parameter))]
        if rows:
            parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    for name in sorted(group.commands):
        command = group.commands[name]
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield command, inner


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _option(parameter: click.Parameter) -> str | None:
    """Return a table row, built from the parts of an option, since click's own text differs between releases."""
    if not isinstance(parameter, click.Option) or parameter.hidden:
        return None
    metavar = "" if parameter.is_flag else parameter.metavar or _type_name(parameter.type)
    notes = [text for text in (_shown_default(parameter), _range(parameter.type)) if text]
    if parameter.required:
        notes.append("required")
    note = f" ({'; '.join(notes)})" if notes else ""
    return f"| `{', '.join(parameter.opts)}{' ' * bool(metavar)}{cell(metavar)}` | {cell(parameter.help or '')}{note} |"


def _type_name(kind: click.ParamType[Any]) -> str:
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    return kind.name.removesuffix(" range").upper()


def _range(kind: click.ParamType[Any]) -> str:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    lower = "" if kind.min is None else f"{'>' if kind.min_open else '>='} {kind.min:g}"
    upper = "" if kind.max is None else f"{'<' if kind.max_open else '<='} {kind.max:g}"
    return " and ".join(filter(None, (lower, upper)))


def _shown_default(option: click.Option) -> str:
    if not option.show_default or option.is_flag:
        return ""
    return f"default: {option.show_default if isinstance(option.show_default, str) else option.default}"


def exit_codes_page() -> str:
    """Return the meaning of each exit code, and the exceptions of the Python API with it."""
    meanings = re.findall(r"^ *(\w+) +(.+)$", errors.__doc__ or "", re.MULTILINE)
    text = dict(meanings)
    rows = []
    for kind, depth in _tree(errors.EdgeSparseError, 0):
        meaning = text.get(kind.__name__) or (kind.__doc__ or "").partition("\n")[0]
        indent = "&nbsp;" * 4 * depth
        rows.append(f"| {indent}`{kind.__name__}` | {kind.exit_code} | {cell(meaning)} |")
    return (
        f"""{MARK}# Exit codes and errors

Source: `edgesparse/errors.py`.

| code | meaning |
|---|---|
| 0 | done |
| {errors.REFUSED} | refused, or a limit was not met |
| {errors.WRONG_USE} | wrong use: an option, a recipe, a model or settings that cannot work |
| {errors.MACHINE_LACKS} | this machine lacks something: a library, a camera, memory |
| 130 | interrupted by Ctrl-C, SIGTERM or SIGHUP (a run ends with 0) |

Every error is one line on standard error: what was found, what was needed, and how to fix it. In Python the same errors
are exceptions; catch `edgesparse.EdgeSparseError` for all of them.

| exception | exit code | raised for |
|---|---|---|
"""
        + "\n".join(rows)
        + "\n"
    )


def _tree(kind: type[errors.EdgeSparseError], depth: int) -> Iterator[tuple[type[errors.EdgeSparseError], int]]:
    yield kind, depth
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _tree(below, depth + 1)


RESULTS = (
    "tasks.prune.PruneOptions",
    "tasks.prune.PruneResult",
    "tasks.quantize.QuantizeOptions",
    "tasks.quantize.QuantizeResult",
    "tasks.inspect.ModelInspection",
    "runtime.evaluate.Evaluation",
    "package.store.Package",
)
"""Types that public functions take and return, besides public classes."""


def api_page() -> str:
    """Return an entry per public name; mkdocstrings adds signatures and docstrings when the site is built."""
    functions = [name for name in edgesparse.__all__ if name[0].islower()]
    classes = [name for name in edgesparse.__all__ if name[0].isupper()]
    lines = [f"{MARK}# Python API\n\nSource: `edgesparse/api.py`. Everything else is private and may change.\n"]
    for title, names in (("Functions", functions), ("Classes", classes), ("Options and results", RESULTS)):
        lines.append(f"## {title}\n")
        lines += [f"::: edgesparse.{name}\n" for name in names]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Return the text of each page by file name."""
    return {
        "verbs.md": verbs_page(),
        "recipe.md": keys_page("Recipe", "edgesparse/config.py", "top level", Recipe),
        "settings.md": keys_page("Service settings", "edgesparse/service/settings.py", "service", settings_type()),
        "exit-codes.md": exit_codes_page(),
        "api.md": api_page(),
        "limits.md": limits_page(),
    }


def main(check: bool) -> int:
    stale = [name for name, text in pages().items() if not _same(FOLDER / name, text)]
    if check:
        for name in stale:
            print(f"docs/reference/{name} is out of date: run scripts/docs, and commit what it writes", file=sys.stderr)
        return int(bool(stale))
    for name in stale:
        (FOLDER / name).write_text(pages()[name])
    return 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
