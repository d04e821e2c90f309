"""Output formats: tables and progress for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from edgesparse.progress import Progress, StepText
from edgesparse.redaction import redact_all, redact_text, visible
from edgesparse.wording import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

INTERVAL = 10.0
"""Seconds between progress lines of one step, without a terminal."""


def complain(message: str) -> None:
    """Print one redacted line on standard error, if that still exists: a terminal may have been closed."""
    with suppress(OSError, ValueError):
        print(f"edgesparse: {printable(redact_text(' '.join(message.split())))}", file=sys.stderr, flush=True)


def emit_json(value: Mapping[str, Any]) -> None:
    """Print JSON on standard output, without parts of addresses that may hold credentials."""
    print(json.dumps(redact_all(value), indent=2))


STATES = {
    **dict.fromkeys(("ok", "kept", "sparse", "deployed", "recovered"), "green"),
    **dict.fromkeys(("missing", "skipped", "rolled back", "set aside"), "yellow"),
    **dict.fromkeys(("needed", "refused", "failed", "unhealthy"), "red"),
}
"""Colors of cells that show a state."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0) -> None:
    """Print a table on standard output; its last `numbers` columns are right-aligned.

    Words are not broken. If columns do not fit side by side, each row becomes a list of its values; in a file or pipe,
    which has no width, each row is one line.
    """
    from rich.console import Console
    from rich.text import Text

    cells = [[f"{value:.2f}" if isinstance(value, float) else visible(str(value)) for value in row] for row in rows]
    console = Console(highlight=False, markup=False)
    if not sys.stdout.isatty():
        console = Console(highlight=False, markup=False, width=1 << 16)
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)  # may be longer than the table is wide
    if sys.stdout.isatty() and _least_width(columns, cells, numbers) > console.width:
        _print_lists(console, columns, cells)
        return
    console.print(_grid(columns, cells, numbers), crop=False)


def _grid(columns: Sequence[str], cells: Sequence[Sequence[str]], numbers: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table(header_style="bold", box=None, pad_edge=False, show_header=any(columns))
    for i, column in enumerate(columns):
        number = i >= len(columns) - numbers
        least = max((len(word) for row in cells for word in row[i].split()), default=0)
        grid.add_column(column, justify="right" if number else "left", no_wrap=number, min_width=least)
    for row in cells:
        grid.add_row(*(Text(value, style=STATES.get(value, "")) for value in row))
    return grid


def _least_width(columns: Sequence[str], cells: Sequence[Sequence[str]], numbers: int) -> int:
    """Return the width at which no word has to be broken: numbers are not wrapped at all."""
    widths = []
    for i in range(len(columns)):
        texts = [columns[i], *(row[i] for row in cells)]
        whole = i >= len(columns) - numbers
        widths.append(max((len(word) for text in texts for word in ([text] if whole else text.split())), default=0))
    return sum(widths) + len(columns) - 1


def _print_lists(console: Console, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.text import Text

    for row in cells:
        for i, (column, value) in enumerate(zip(columns, row, strict=True)):
            lead = "" if i == 0 else f"  {column}: " if column else "  "
            if value not in ("", "-"):
                console.print(
                    Text(lead) + Text(value, style=STATES.get(value, "bold" if i == 0 else "")), soft_wrap=True
                )


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
        self._clock, self._describe = clock, StepText(clock)
        self._step, self._printed = "", 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        text, now = self._describe(step, done, total), self._clock()
        if step == self._step and now - self._printed <= INTERVAL:
            return
        self._step, self._printed = step, now
        print(text, file=sys.stderr, flush=True)
