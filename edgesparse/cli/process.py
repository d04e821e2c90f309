"""What a command needs from its process: standard streams, signals, and reports of unexpected errors."""

from __future__ import annotations

import io
import os
import platform
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from edgesparse import device
from edgesparse.errors import EdgeSparseError
from edgesparse.redaction import redact_text
from edgesparse.service.signals import hold_reload
from edgesparse.version import VERSION

REPORTS = 20
"""Reports to keep; the oldest are deleted."""


def prepare_streams() -> None:
    """Make standard streams usable for any text.

    The next file opened would take the place of a closed one. Writing to a closed standard output fails; what goes to
    a closed standard error is dropped.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) <= 2:
        if number == 2:
            os.dup2(null := os.open(os.devnull, os.O_WRONLY), number)
            os.close(null)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def prepare_signals(arguments: Sequence[str]) -> None:
    """Let SIGTERM and SIGHUP end a command like Ctrl-C, with outputs finished. A service holds SIGHUP for later.

    SIGUSR1 and SIGUSR2 mean nothing here, and are ignored: by default a stray one, as log rotation sends to other
    programs, would end the process with its outputs unfinished.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    for unused in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(unused, signal.SIG_IGN)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        return
    if "--service" in arguments:
        hold_reload()
    else:
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def reader_has_gone() -> bool:
    """Return whether standard output is a pipe that nobody reads any more, as after `| head`. rich has then replaced it
    with /dev/null.
    """
    if os.fstat(1).st_rdev == Path(os.devnull).stat().st_rdev:
        return True
    poll = select.poll()
    poll.register(1, 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def discard_output() -> None:
    """Point standard output at /dev/null: otherwise Python would complain at exit about unflushed data."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(error: BaseException, arguments: Sequence[str]) -> str:
    """Write the traceback of an unexpected error to a file. Returns the line to print, which names the file."""
    kind = type(error).__name__
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    head = f"edgesparse {VERSION}, Python {platform.python_version()}, {platform.platform()}\n{' '.join(arguments)}\n\n"
    path = _write(redact_text(head + text))
    where = f"attach {path}" if path else "no file could be written for the report"
    return f"unexpected {kind} ({redact_text(str(error))[:200]}): this is a defect, please report it; {where}"


def _write(text: str) -> Path | None:
    """Write a report to the state folder, or the folder for temporary files, readable only by its owner."""
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}.txt"
    for folder in _folders():
        with suppress(OSError, EdgeSparseError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_into(folder, name, text)
            return folder / name
    return None


def _write_into(folder: Path, name: str, text: str) -> None:
    """Write a file to a folder that only this user can change, through its descriptor. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise OSError(f"others can write to {folder}")
        with os.scandir(handle) as entries:
            reports = sorted(entry.name for entry in entries if entry.name.startswith("error-"))
        for old in reports[: 1 - REPORTS]:
            os.unlink(old, dir_fd=handle)
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=handle)
        with os.fdopen(new, "w", errors="backslashreplace") as file:
            file.write(text)
    finally:
        os.close(handle)


def _folders() -> list[Path]:
    temporary = Path(tempfile.gettempdir()) / f"edgesparse-{os.geteuid()}"
    try:
        return [device.state_folder() / "reports", temporary]
    except EdgeSparseError:
        return [temporary]
