"""Small files that other processes may have damaged, or replaced by something that is no file."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path


def read_regular(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes; a pipe or a device never blocks.

    Raises FileNotFoundError where it does not exist, another OSError where it cannot be read or is no regular file, and
    ValueError where it is larger.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        file = os.fdopen(descriptor, "rb", closefd=False)
        data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise ValueError(f"{path} has more than {most} bytes")
    return data


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that it is out of the way and can be examined. Returns its new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    return aside


def write_synced(path: Path, text: str) -> None:
    """Replace a file atomically, on the disk: after a power cut it has the old text or the new one."""
    part = path.with_name(f".{path.name}")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk."""
    sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync(path: Path, flags: int = os.O_RDONLY) -> None:
    """Write a file to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
