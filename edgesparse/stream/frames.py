"""Frames, which sources yield and sinks take, and the memory that holds their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Image = npt.NDArray[Any]
"""BGR uint8 [H, W, 3]."""

Allocator = Callable[[tuple[int, ...]], Image]
"""Allocates an uninitialized image of the given shape. Called from any thread."""


@dataclass(slots=True)
class Frame:
    """One image of a stream.

    Its image is valid until the source has delivered `source.lends` more frames; copy it to keep it longer.
    """

    image: Image
    """BGR uint8 [H, W, 3]."""
    time_ns: int
    """When it was captured or decoded, on the clock of `time.monotonic_ns`."""
    index: int
    """Counts captured frames from 0. A gap means that frames were dropped."""
    name: str
    """The source's name; the image's file name if the source is a folder or a glob."""
    source: str = ""
    """The camera's name in the recipe."""
    position_ns: int | None = None
    """Nanoseconds from the start of the video; None for cameras and images."""
    live: bool = False
    """Whether `time_ns` is the time of capture by a camera."""

    @property
    def clock_ns(self) -> int:
        """The frame's time for durations: its position in a video, which may be read faster than it plays, else
        `time_ns`."""
        return self.time_ns if self.position_ns is None else self.position_ns
