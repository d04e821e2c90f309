"""Output files: checked before any work, never overwritten without `force`, never left half-written.

Their missing folders are created when they are written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from edgesparse.disk import check_folder
from edgesparse.errors import ConfigError
from edgesparse.files import make_folder


def check_outputs(outputs: Iterable[Path | None], force: bool, inputs: Iterable[Path] = ()) -> None:
    """Check the files to be written; None stands for an output that was not requested.

    Raises ConfigError if one exists without `force`, is a folder, a pipe, a device or an input, is named twice, or its
    folder can be neither written to nor created.
    """
    taken = {os.path.realpath(path): "is an input" for path in inputs}
    for path in outputs:
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: name a file")
        if (reason := taken.get(os.path.realpath(path))) is not None:
            raise ConfigError(f"cannot write {path}: it {reason}; name another file")
        if special(path):
            raise ConfigError(f"cannot write {path}: it is a pipe or a device; name a file")
        if path.exists() and not force:
            raise ConfigError(f"{path} already exists: pass --force to overwrite it, or name another file")
        check_folder(path.parent)
        taken[os.path.realpath(path)] = "is the target of two outputs"


def special(path: Path) -> bool:
    """Whether a path is a pipe, a device or a socket, which a new file must not replace."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write(output: Path, save: Callable[[Path], object]) -> None:
    """Write to a temporary folder next to `output`, then rename: readers see the old files or the new ones.

    `save` writes the path that it is called with, and may write more files next to it. Raises ConfigError.
    """
    try:
        make_folder(output.parent)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".edgesparse-") as folder:
            save(Path(folder) / output.name)
            for file in sorted(Path(folder).iterdir(), reverse=True):
                file.replace(output.parent / file.name)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
