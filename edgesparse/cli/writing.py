"""Files that verbs write: not over what is there without --force, and never half of one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from edgesparse.errors import ConfigError


def check_free(path: Path | None, force: bool) -> None:
    """Raise ConfigError where `path` is taken, or its folder is not there."""
    if path is None:
        return
    if path.is_dir() or (path.exists() and not force):
        raise ConfigError(f"{path} is there already: pass --force to overwrite it, or name another")
    if not path.parent.is_dir():
        raise ConfigError(f"no folder {path.parent}: make it, or name another")


def write(output: Path, make: Callable[[Path], object]) -> None:
    """Write in a folder beside `output`, then rename: a reader sees the old files or the new, never half of one."""
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".edgesparse-") as folder:
            make(Path(folder) / output.name)
            for made in sorted(Path(folder).iterdir(), reverse=True):
                made.replace(output.parent / made.name)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
