"""The type of the fixture `planned`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Plan = Callable[..., Path]
"""Writes the plan that builds of the null backend follow."""
