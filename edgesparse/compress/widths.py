"""The widths to which a block of channels may be reduced, and the order in which they are worth it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesparse.compress.coupled import Block
from edgesparse.model.wiring import Array

GRID, NARROW = 32, 64
"""INT8 kernels store channels in blocks of GRID; blocks below NARROW channels are tried at half of that too."""


@dataclass(frozen=True)
class Width:
    """A block reduced to `count` channels, without those in `dropped`: the predicted saving in ms, and the change of
    the model's outputs, as a share of their variance.
    """

    block: Block
    count: int
    dropped: tuple[int, ...]
    saved_ms: float
    change: float


def counts(channels: int) -> list[int]:
    """The widths below `channels` to try: on the grid, and none at all, which removes the layers too."""
    return list(range(0, channels, GRID if channels >= NARROW else GRID // 2))


def in_order(widths: Iterable[Width]) -> list[Width]:
    """The widths that save most for what they cost, in that order; those of a block from wide to narrow.

    Only widths on the lower convex hull of (saved, change) of their block are worth it: the greedy solution of the
    knapsack problem with a choice per block (Sinha and Zoltners, "The multiple-choice knapsack problem", 1979).
    """
    by_block: dict[str, list[Width]] = {}
    for width in widths:
        by_block.setdefault(width.block.name, []).append(width)
    steps = [step for block in by_block.values() for step in _hull(block)]
    return [width for _, width in sorted(steps, key=lambda step: step[0])]


def _hull(widths: Sequence[Width]) -> list[tuple[float, Width]]:
    """Each width worth it, with what it changes per millisecond saved, compared with the one before."""
    steps = []
    saved = changed = 0.0
    while more := [width for width in widths if width.saved_ms > saved]:
        slope, best = min(
            (((width.change - changed) / (width.saved_ms - saved), width) for width in more),
            key=lambda step: (step[0], -step[1].saved_ms),
        )
        steps.append((slope, best))
        saved, changed = best.saved_ms, best.change
    return steps


def as_arrays(widths: Sequence[Width]) -> dict[str, Array]:
    """Widths of one block, to be stored."""
    arrays: dict[str, Any] = {
        "counts": np.array([width.count for width in widths], int),
        "values": np.array([(width.saved_ms, width.change) for width in widths], float).reshape(-1, 2),
    }
    return arrays | {f"dropped-{width.count}": np.array(width.dropped, int) for width in widths}


def from_arrays(block: Block, arrays: Mapping[str, Array]) -> list[Width]:
    """The widths that `as_arrays` stored."""
    return [
        Width(block, int(count), tuple(arrays[f"dropped-{count}"].tolist()), float(saved), float(change))
        for count, (saved, change) in zip(arrays["counts"], arrays["values"], strict=True)
    ]
