"""Files that other processes read, replace or damage: bounded reads, atomic writes."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

Check = Callable[[os.stat_result], None]
"""Raises if a file with this status must not be read."""


def read_regular(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes; a pipe or a device never blocks, a link is not followed.

    Raises FileNotFoundError if it does not exist, another OSError if it cannot be read or is not a regular file, and
    ValueError if it is larger.
    """
    return read_checked(path, most, flags=os.O_NOFOLLOW)


def read_checked(path: Path, most: int = sys.maxsize - 1, check: Check | None = None, flags: int = 0) -> bytes:
    """Read a regular file whose status `check` accepts: that of the open file, which nobody can exchange.

    A link is followed, unless `flags` forbid it.

    Raises what `read_regular` raises, and what `check` does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise _not_regular(path) from None  # a link, a socket
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(path)
        if check is not None:
            check(status)
        file = os.fdopen(descriptor, "rb", closefd=False)
        data = file.read(min(max(status.st_size, 1 << 20), most) + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise ValueError(f"{path} has more than {most} bytes")
    return data


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))


def foreign_owner(status: os.stat_result) -> str:
    """Return `owned by user N, needed root` for what another user than root and this one could change; else nothing."""
    if status.st_uid in (0, os.geteuid()):
        return ""
    return f"owned by user {status.st_uid}, needed root"


def untrusted(path: Path, status: os.stat_result) -> str:
    """Return how other users than root and this one could change a file, and the command that ends it; else nothing."""
    if owner := foreign_owner(status):
        return f"{owner} or user {os.geteuid()}: chown root {path}"
    if status.st_mode & 0o002:
        return f"found mode {stat.S_IMODE(status.st_mode):o}, which lets others change it: chmod o-w {path}"
    return ""


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that it is out of the way and can be examined. Returns its new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    return aside


def create(path: Path, data: bytes, mode: int) -> None:
    """Create a file with these permissions, whole and on disk. Raises FileExistsError if it exists, OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename, this keeps a file that another process created meanwhile
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def replacing(path: Path, mode: int = 0o666, synced: bool = False) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` at the end of the block, unless that raises.

    Readers see the old content or the new content, never a part. `mode`: the permissions, less the umask. `synced`:
    write it to disk before it replaces the old file, so that this holds after a power cut too. Raises OSError.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if synced:
                file.flush()
                os.fsync(descriptor)
        part.replace(path)
        if synced:
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def replace_text(path: Path, text: str, mode: int = 0o666, synced: bool = False) -> None:
    """Replace a file by this text in UTF-8, as `replacing` does. Raises OSError."""
    with replacing(path, mode, synced) as file:
        file.write(text.encode())


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a folder and its missing parents, and sync their names to disk. `mode`: of `path`. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode, parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def require_writable(folder: Path) -> None:
    """Check that files can be created in a folder, or where it would be created. Raises OSError.

    A file without a name is created, where the file system can: permissions alone do not show a read-only one.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    with tempfile.TemporaryFile(dir=existing):
        pass


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync(path: Path, flags: int = os.O_RDONLY) -> None:
    """Sync a file to disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


FileState = tuple[str, int, int]
"""A file's path, size in bytes and time of change in nanoseconds; -1 for a file that is missing."""


def file_states(paths: Iterable[Path]) -> list[FileState]:
    """Return what tells whether files were changed or replaced since, without reading them."""
    return [_state(path) for path in paths]


def _state(path: Path) -> FileState:
    try:
        status = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns
