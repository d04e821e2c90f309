"""The history of a device's deploys: JSON lines, bounded in number."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgesparse.files import read_regular, replace_text, sync_folder
from edgesparse.fleet.bundle import MAX_TIME
from edgesparse.fleet.state import DamagedState

KEPT = 200
"""Lines to keep; there may be up to a quarter more before the file is cut."""
MAX_BYTES = 16 << 20


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the last KEPT events, oldest first, without invalid lines, such as one torn by a power cut.

    Raises DamagedState for a file that is not readable or too large.
    """
    return _events(path)[-KEPT:]


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        lines = read_regular(path, MAX_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DamagedState(str(error)) from None
    return [event for line in lines if (event := _event(line)) is not None]


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    time = event.get("time", 0)
    return event if isinstance(time, int | float) and 0 <= time < MAX_TIME else None


def append_history(path: Path, event: dict[str, Any]) -> None:
    """Append an event and sync it to disk. Once the file has grown by a quarter, keep its last KEPT lines. Raises
    DamagedState, OSError.
    """
    events = _events(path)
    if len(events) >= KEPT + KEPT // 4:
        lines = [json.dumps(line) + "\n" for line in [*events[1 - KEPT :], event]]
        replace_text(path, "".join(lines), synced=True)
        return
    with path.open("ab+") as file:
        torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write(b"\n" * bool(torn) + json.dumps(event).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
