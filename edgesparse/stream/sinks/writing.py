"""Writing files so that nobody sees half of one, nothing is overwritten unasked, and failures are one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from edgesparse.errors import SinkError
from edgesparse.runtime.images import is_image
from edgesparse.stream.frames import Frame


def stem(frame: Frame) -> str:
    """What a frame's own file is called, without its ending: the image's name, or the source's and a number."""
    if is_image(Path(frame.name)):
        return str(PurePath(frame.name).with_suffix(""))
    source = frame.name if "://" in frame.name else PurePath(frame.name).stem
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', source).strip('_.')}_{frame.index:06d}"


@contextmanager
def failing(path: str | Path) -> Iterator[None]:
    """Turn what the system says into one line."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror or error}") from error


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse folders, and files that are there; pipes and devices may be written to."""
    if path.is_dir():
        raise SinkError(f"cannot write {path}: it is a folder; name a file")
    if path.is_file() and not force:
        raise SinkError(f"{path} is there already: pass --force to overwrite it")


def claim(path: Path, force: bool) -> Path:
    """Make an empty file beside `path`, to write to and then rename; its ending is the same."""
    refuse_existing(path, force)
    if path.exists() and not path.is_file():
        raise SinkError(f"cannot write {path}: it is a pipe or a device; name a file")
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with failing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    return part


def writable_folder(folder: str | Path) -> Path:
    """The folder, made where it isn't there; a file was made in it, so it can be written to."""
    path = Path(folder)
    with failing(folder):
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".{os.getpid()}.part"
        trial.touch()
        trial.unlink()
    return path


def write_whole(path: Path, data: bytes, force: bool) -> None:
    """Write a small file so that nobody sees half of it."""
    part = claim(path, force)
    try:
        with failing(path):
            part.write_bytes(data)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
