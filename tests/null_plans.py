"""The type of the fixture `planned`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Plan = Callable[..., Path]
"""Writes down how builds of the null backend go."""
