"""The progress callback of everything that takes seconds."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the step's description, the amount done, and the total amount (0 if unknown)."""


def quiet(step: str, done: int, total: int) -> None:
    """Ignore progress."""
