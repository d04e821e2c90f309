"""Output formats: tables and progress for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from edgesparse.progress import Progress
from edgesparse.redaction import redact_all, redact_text
from edgesparse.wording import printable

INTERVAL = 10.0
"""Seconds between progress lines of one step, without a terminal."""


def complain(message: str) -> None:
    """Print one redacted line on standard error, if that still exists: a terminal may have been closed."""
    with suppress(OSError, ValueError):
        print(f"edgesparse: {printable(redact_text(' '.join(message.split())))}", file=sys.stderr, flush=True)


def emit_json(value: Mapping[str, Any]) -> None:
    """Print JSON on standard output, without parts of addresses that may hold credentials."""
    print(json.dumps(redact_all(value), indent=2))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0) -> None:
    """Print a table on standard output; its last `numbers` columns are right-aligned."""
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
    """Show the progress of long work on standard error: a bar with the time left on a terminal, otherwise lines."""
    if not sys.stderr.isatty():
        yield ProgressLines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)
        current = ""

        def advance(step: str, done: int, total: int) -> None:
            nonlocal current
            if step != current:
                bars.reset(task)  # the time left is for this step
                current = step
            bars.update(task, description=step, completed=done, total=total or None)

        yield advance


class ProgressLines:
    """Progress without a terminal: a line per step, and one every ten seconds with the step's time left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step, self._started, self._printed, self._first = "", 0.0, 0.0, 0

    def __call__(self, step: str, done: int, total: int) -> None:
        now = self._clock()
        if step != self._step:
            self._step, self._started, self._first = step, now, done
        elif now - self._printed <= INTERVAL:
            return
        self._printed = now
        print(f"{step}{self._count(now, done, total)}", file=sys.stderr, flush=True)

    def _count(self, now: float, done: int, total: int) -> str:
        if not total:
            return ""
        advanced = done - self._first
        if advanced <= 0 or done >= total:
            return f" {done}/{total}"
        return f" {done}/{total}, {duration((total - done) * (now - self._started) / advanced)} left"


def duration(seconds: float) -> str:
    """Format a duration for people: 40 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
