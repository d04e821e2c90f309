"""A source of frames that are already in memory, for timing everything except a camera."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgesparse.demo.scene import Scene
from edgesparse.stream.frames import Allocator, Frame, Image
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.frame_buffers import stored


class MemorySource(Source):
    """Endlessly cycles through the same images, as fast as they are taken."""

    def __init__(self, images: Sequence[Image], name: str) -> None:
        self.name, self._images, self._index = name, images, 0
        self._allocate: Allocator | None = None

    def lend(self, most: int, memory: Allocator) -> None:
        self.lends = most
        if memory != self._allocate:
            self._allocate, self._images = memory, [stored(image, None, memory) for image in self._images]

    def read(self) -> Frame:
        image = self._images[self._index % len(self._images)]
        frame = Frame(image, time.monotonic_ns(), self._index, self.name)
        self._index += 1
        return frame

    def reopen(self) -> None:
        self._index = 0

    def close(self) -> None:
        self._images = ()


def scene_frames(count: int = 8, height: int = 1080, width: int = 1920) -> MemorySource:
    """Return a source of `count` frames of the demo scene."""
    scene = Scene(0, height=height, width=width)
    return MemorySource([scene.render()[0].copy() for _ in range(count)], f"the demo scene at {width}x{height}")
