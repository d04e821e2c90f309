"""How far long work is: one callback that everything which takes seconds is given."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the step in words, how much of it is done, and how much there is (0 where that is not known)."""


def quiet(step: str, done: int, total: int) -> None:
    """Show nothing."""
