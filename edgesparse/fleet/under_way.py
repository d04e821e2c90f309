"""How far a deploy or rollback is, for whoever asks `status` meanwhile: a file next to the service's status.

That folder is in memory and survives a restart of the service. Nothing depends on this file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgesparse.files import read_regular, replace_text
from edgesparse.progress import Progress, StepText

NAME = "progress.json"
MAX_BYTES = 1 << 16
INTERVAL = 1.0
"""Seconds between two writes about the same step."""


@contextmanager
def shown(status: Path, verb: str, progress: Progress) -> Iterator[Progress]:
    """Write what `progress` is called with next to the service's `status`, if that folder exists, until the end."""
    path, describe = status.with_name(NAME), StepText()
    step_before, written = "", 0.0

    def advance(step: str, done: int, total: int) -> None:
        nonlocal step_before, written
        progress(step, done, total)
        text, now = describe(step, done, total), time.monotonic()
        if (step == step_before and now - written < INTERVAL) or not path.parent.is_dir():
            return
        step_before, written = step, now
        with suppress(OSError):
            replace_text(path, json.dumps({"pid": os.getpid(), "verb": verb, "progress": text}) + "\n")

    try:
        yield advance
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read(status: Path) -> dict[str, Any] | None:
    """Return `verb`, `pid` and `progress` of a deploy that is running; None without one."""
    try:
        values = json.loads(read_regular(status.with_name(NAME), MAX_BYTES))
        verb, pid, text = str(values["verb"]), int(values["pid"]), str(values["progress"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return {"verb": verb, "pid": pid, "progress": text} if Path(f"/proc/{pid}").exists() else None
