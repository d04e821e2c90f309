"""How results look: tables and a progress bar for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgesparse.progress import Progress
from edgesparse.wording import shown


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"edgesparse: {' '.join(message.split())}", file=sys.stderr)


def emit_json(value: Mapping[str, Any]) -> None:
    """For programs; addresses without what may hold credentials."""
    print(json.dumps(shown(value), indent=2))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0) -> None:
    """A table on standard output; its last `numbers` columns are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        number = i >= len(columns) - numbers
        grid.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        grid.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row))
    width = None if sys.stdout.isatty() else 160  # a file or a pipe has no width of its own
    Console(highlight=False, markup=False, width=width).print(grid)


@contextmanager
def progress() -> Iterator[Progress]:
    """A callable for long work. On a terminal a bar; elsewhere a line on standard error a step and each ten seconds."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def advance(step: str, done: int, total: int) -> None:
            bars.update(task, description=step, completed=done, total=total or None)

        yield advance


class _Lines:
    def __init__(self) -> None:
        self._step, self._said = "", 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if step != self._step or now - self._said > 10:
            print(f"{step} {done}/{total}" if total else step, file=sys.stderr, flush=True)
            self._step, self._said = step, now
