"""The image buffers of a source, reused from frame to frame."""

from __future__ import annotations

from collections import deque

import numpy as np

from edgesparse.stream.frames import Allocator, Frame, Image


class FrameBuffers:
    """One image being written, the newest one, and `lends` images being read. The caller holds a lock."""

    def __init__(self, lends: int = 1) -> None:
        self.spare: Image | None = None
        """The image to write into; None before there is one."""
        self._newest: Image | None = None
        self._lent: deque[Image | None] = deque([None] * lends)
        self._time_ns = self._index = 0
        self.fresh = False
        """Whether the newest image has not been taken yet."""

    def abandon_spare(self) -> None:
        """Leave the image being written to a writer that is stuck."""
        self.spare = None

    def move(self, lends: int, allocate: Allocator) -> None:
        """Start over in new memory, keeping a frame that has not been taken yet."""
        if self.fresh:
            assert self._newest is not None
            self._newest = stored(self._newest, None, allocate)
        else:
            self._newest = None
        self.spare, self._lent = None, deque([None] * lends)

    def publish(self, image: Image, time_ns: int, index: int) -> bool:
        """Make `image`, the spare or its replacement, the newest. Returns whether an untaken image was dropped."""
        self.spare, self._newest = self._newest, image
        self._time_ns, self._index = time_ns, index
        dropped, self.fresh = self.fresh, True
        return dropped

    def take(self, name: str) -> Frame:
        """Return the newest frame. Its image is not written to until `lends` more have been taken."""
        image = self._newest
        assert image is not None
        self._lent.append(image)
        self._newest, self.fresh = self._lent.popleft(), False
        return Frame(image, self._time_ns, self._index, name, live=True)


def stored(image: Image, spare: Image | None, allocate: Allocator) -> Image:
    """Return the image in our own memory: itself if it was written into `spare`, else a copy in `spare`, or in a new
    image if the sizes differ. An image that is not uint8 is returned unchanged, for the detector to refuse.
    """
    if image is spare or image.dtype != np.uint8:
        return image
    if spare is None or spare.shape != image.shape:
        spare = allocate(image.shape)
    np.copyto(spare, image)
    return spare


def allocate_pageable(shape: tuple[int, ...]) -> Image:
    """Allocate ordinary memory."""
    return np.empty(shape, np.uint8)
