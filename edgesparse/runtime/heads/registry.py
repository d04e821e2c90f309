"""Heads by name."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from edgesparse.errors import ConfigError
from edgesparse.head_table import HEADS
from edgesparse.runtime.heads.base import Head


def head(name: str) -> Head:
    """The head of that name in edgesparse/head_table.py. Raises ConfigError for one that does not exist."""
    if name not in HEADS:
        raise ConfigError(f"unknown head {name!r}: use one of {', '.join(HEADS)}")
    return _load(HEADS[name])


def heads() -> dict[str, Head]:
    """Every head by name."""
    return {name: _load(path) for name, path in HEADS.items()}


@lru_cache(None)
def _load(path: str) -> Head:
    module, _, name = path.partition(":")
    head: Head = getattr(import_module(module), name)()
    return head
