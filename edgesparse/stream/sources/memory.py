"""Frames that are in memory already: to time everything but a camera."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgesparse.demo.scene import Scene
from edgesparse.stream.frames import Frame, Image
from edgesparse.stream.frames import Memory as Room
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.slots import kept


class Memory(Source):
    """Endless: the same frames over and over, as fast as they are taken."""

    def __init__(self, frames: Sequence[Image], name: str) -> None:
        self.name, self._frames, self._index = name, frames, 0
        self._room: Room | None = None

    def lend(self, most: int, memory: Room) -> None:
        self.lends = most
        if memory != self._room:
            self._room, self._frames = memory, [kept(frame, None, memory) for frame in self._frames]

    def read(self) -> Frame:
        image = self._frames[self._index % len(self._frames)]
        frame = Frame(image, time.monotonic_ns(), self._index, self.name)
        self._index += 1
        return frame

    def reopen(self) -> None:
        self._index = 0

    def close(self) -> None:
        self._frames = ()


def scene_frames(count: int = 8, height: int = 1080, width: int = 1920) -> Memory:
    """Frames of the demo scene."""
    scene = Scene(0, height=height, width=width)
    return Memory([scene.render()[0].copy() for _ in range(count)], f"the demo scene at {width}x{height}")
