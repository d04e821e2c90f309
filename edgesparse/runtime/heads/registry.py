"""Heads by name."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint

from edgesparse.errors import ConfigError
from edgesparse.head_table import HEADS, head_file, installed
from edgesparse.runtime.heads.base import Head
from edgesparse.runtime.heads.own import from_entry, from_file

_log = logging.getLogger(__name__)


def head(name: str) -> Head:
    """Return a head by name: from edgesparse/head_table.py, a file (`my_head.py:MyHead`), or an installed package.

    Raises ConfigError if it does not exist or cannot be loaded.
    """
    if (file := head_file(name)) is not None:
        return from_file(file)
    if name in HEADS:
        return _load(HEADS[name])
    if name in installed():
        return from_entry(installed()[name])
    raise ConfigError(f"unknown head {name!r}: use one of {', '.join((*HEADS, *installed()))}, or FILE.py:CLASS")


def heads() -> dict[str, Head]:
    """All heads by name. Those of installed packages that cannot be loaded are left out, with a warning."""
    loaded = {name: _try(entry) for name, entry in installed().items()}
    every = {name: _load(path) for name, path in HEADS.items()}
    return every | {name: offered for name, offered in loaded.items() if offered is not None}


def _try(entry: EntryPoint) -> Head | None:
    try:
        return from_entry(entry)
    except ConfigError as error:
        _log.warning("%s", error)
        return None


@lru_cache(None)
def _load(path: str) -> Head:
    module, _, name = path.partition(":")
    head: Head = getattr(import_module(module), name)()
    return head
