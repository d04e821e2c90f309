"""Writes files: never half a file, never over an existing one unless forced, with one line per failure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from edgesparse.disk import refuse_file
from edgesparse.errors import SinkError
from edgesparse.files import require_writable
from edgesparse.runtime.images import is_image
from edgesparse.stream.frames import Frame
from edgesparse.wording import printable


def file_stem(frame: Frame) -> str:
    """Return the name, without suffix, of a frame's file: the image's name, or the source's name and the index."""
    if is_image(Path(frame.name)):
        return str(PurePath(frame.name).with_suffix(""))
    source = frame.name if "://" in frame.name else PurePath(frame.name).stem
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', source).strip('_.')}_{frame.index:06d}"


@contextmanager
def failing(path: str | Path) -> Iterator[None]:
    """Turn an OSError into a one-line SinkError."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"cannot write {printable(path)}: {error.strerror or error}") from error


def refuse_existing(path: Path, force: bool) -> None:
    """Raise SinkError for a folder and, unless forced, for an existing file. Pipes and devices may be written to."""
    if path.is_dir():
        raise SinkError(f"cannot write {printable(path)}: it is a folder; name a file")
    if path.is_file() and not force:
        raise SinkError(f"{printable(path)} exists already: pass --force to overwrite it")


def create_part(path: Path, force: bool) -> Path:
    """Create an empty, hidden file next to `path`, to be written and renamed to it. Raises SinkError."""
    refuse_existing(path, force)
    if path.exists() and not path.is_file():
        raise SinkError(f"cannot write {printable(path)}: it is a pipe or a device; name a file")
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with failing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    return part


def check_writable(path: Path, force: bool) -> None:
    """Check that a file can be created at `path`; creates its folder. Raises SinkError."""
    create_part(path, force).unlink()


def writable_folder(folder: str | Path) -> Path:
    """Create the folder if it does not exist, and check that files can be created in it. Raises SinkError."""
    path = Path(folder)
    refuse_file(path, SinkError)
    with failing(folder):
        path.mkdir(parents=True, exist_ok=True)
        require_writable(path)
    return path


def write_whole(path: Path, data: bytes, force: bool) -> None:
    """Write a small file atomically. Raises SinkError."""
    part = create_part(path, force)
    try:
        with failing(path):
            part.write_bytes(data)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
