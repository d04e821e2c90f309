"""Where a source's frames are kept: images that are used again and again."""

from __future__ import annotations

from collections import deque

import numpy as np

from edgesparse.stream.frames import Frame, Image, Memory


class Slots:
    """One image being written, the newest, and `lends` that are read. Not locked: its user holds a lock."""

    def __init__(self, lends: int = 1) -> None:
        self.spare: Image | None = None
        """The image to write into; None before there is one."""
        self._newest: Image | None = None
        self._read: deque[Image | None] = deque([None] * lends)
        self._time_ns = self._index = 0
        self.fresh = False
        """Whether the newest has not been taken yet."""

    def renew(self) -> None:
        """Give the image being written away, to a writer that is stuck with it."""
        self.spare = None

    def move(self, lends: int, memory: Memory) -> None:
        """Begin anew, in other memory, with the frame that has not been taken."""
        if self.fresh:
            assert self._newest is not None
            self._newest = kept(self._newest, None, memory)
        else:
            self._newest = None
        self.spare, self._read = None, deque([None] * lends)

    def publish(self, image: Image, time_ns: int, index: int) -> bool:
        """Make `image`, the spare or one in its place, the newest; whether an untaken one is dropped for it."""
        self.spare, self._newest = self._newest, image
        self._time_ns, self._index = time_ns, index
        dropped, self.fresh = self.fresh, True
        return dropped

    def take(self, name: str) -> Frame:
        """The newest frame; its image stays untouched until `lends` more were taken."""
        image = self._newest
        assert image is not None
        self._read.append(image)
        self._newest, self.fresh = self._read.popleft(), False
        return Frame(image, self._time_ns, self._index, name)


def kept(image: Image, spare: Image | None, memory: Memory) -> Image:
    """An image in memory of ours: itself where it was written into `spare`, else a copy there, or in new memory where
    it has another size. One that is not of bytes stays where it is: the detector refuses it."""
    if image is spare or image.dtype != np.uint8:
        return image
    if spare is None or spare.shape != image.shape:
        spare = memory(image.shape)
    np.copyto(spare, image)
    return spare


def pageable(shape: tuple[int, ...]) -> Image:
    """Any memory: a Memory."""
    return np.empty(shape, np.uint8)
