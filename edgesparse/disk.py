"""Folders and files that are written: what the disk refuses is one line."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgesparse.errors import ConfigError, EdgeSparseError
from edgesparse.files import make_folder, replacing, require_writable
from edgesparse.wording import printable

FULL = (errno.ENOSPC, errno.EDQUOT)


def refuse_file(folder: Path, error: type[EdgeSparseError] = ConfigError) -> None:
    """Raise `error` if `folder` exists and is a file."""
    if folder.exists() and not folder.is_dir():
        raise error(f"{printable(folder)} is a file: name a folder")


def check_folder(folder: Path) -> None:
    """Raise ConfigError unless files can be created in `folder`, which need not exist yet."""
    refuse_file(folder)
    try:
        require_writable(folder)
    except OSError as error:
        raise ConfigError(f"cannot write to folder {folder}: {error.strerror}; name another") from None


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` at the end of the block, synced, unless that raises.

    Missing folders are created. Raises ConfigError if it cannot be written.
    """
    try:
        make_folder(path.parent)
        with replacing(path, synced=True) as file:
            yield file
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def storing(folder: Path | None) -> Iterator[None]:
    """Raise ConfigError if the disk of `folder`, by default that of temporary files, is full in this block."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = tempfile.gettempdir() if folder is None else folder
        other = "set TMPDIR to another folder" if folder is None else "name another folder"
        raise ConfigError(f"cannot write to {where}: {error.strerror}; free some space, or {other}") from error


@contextmanager
def scratch(parent: Path | None = None, prefix: str = "edgesparse-") -> Iterator[Path]:
    """Yield a temporary folder in `parent`, or where the system keeps them. Raises what `storing` raises."""
    with storing(parent), tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder:
        yield Path(folder)
