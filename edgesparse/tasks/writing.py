"""Output files: checked before any work, never overwritten without `force`, never left half-written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from edgesparse.errors import ConfigError


def check_outputs(outputs: Iterable[Path | None], force: bool, inputs: Iterable[Path] = ()) -> None:
    """Check the files to be written; None stands for an output that was not requested.

    Raises ConfigError if one exists without `force`, is a folder or an input, is named twice, or its folder is
    missing or cannot be written to.
    """
    taken = {os.path.realpath(path): "is an input" for path in inputs}
    for path in outputs:
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: name a file")
        if (reason := taken.get(os.path.realpath(path))) is not None:
            raise ConfigError(f"cannot write {path}: it {reason}; name another file")
        if path.exists() and not force:
            raise ConfigError(f"{path} already exists: pass --force to overwrite it, or name another file")
        if not path.parent.is_dir():
            raise ConfigError(f"no folder {path.parent}: create it, or name another")
        _require_writable(path)
        taken[os.path.realpath(path)] = "is the target of two outputs"


def _require_writable(path: Path) -> None:
    """Create a file without a name where `path` is to be: permissions alone do not show a read-only file system."""
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another folder") from None


def write(output: Path, save: Callable[[Path], object]) -> None:
    """Write to a temporary folder next to `output`, then rename: readers see the old files or the new ones.

    `save` writes the path that it is called with, and may write more files next to it. Raises ConfigError.
    """
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".edgesparse-") as folder:
            save(Path(folder) / output.name)
            for file in sorted(Path(folder).iterdir(), reverse=True):
                file.replace(output.parent / file.name)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
