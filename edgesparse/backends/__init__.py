"""Backends by name. No inference library is imported before it is used."""

from __future__ import annotations

from importlib import import_module

from edgesparse.backend_table import BACKENDS
from edgesparse.backends.base import Availability, Backend, BuildOptions, BuildResult, Runner, TensorSpec
from edgesparse.errors import ConfigError

__all__ = [
    "NAMES",
    "Availability",
    "Backend",
    "BuildOptions",
    "BuildResult",
    "Runner",
    "TensorSpec",
    "backend",
]

NAMES = tuple(BACKENDS)


def backend(name: str) -> Backend:
    """The backend of that name. Raises ConfigError for an unknown one."""
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}: use one of {', '.join(NAMES)}")
    module, _, kind = BACKENDS[name].partition(":")
    instance: Backend = getattr(import_module(module), kind)()
    return instance
