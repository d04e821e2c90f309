"""What the kernels are told about the images of a batch: addresses, sizes, and the places in the model's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesparse.backends.cuda.layouts import IMAGE, IMAGES, TAP, VIEW, image_of, offset_of, view_of
from edgesparse.backends.cuda.memory import Memory
from edgesparse.backends.frames import Frame, Place


class Descriptions:
    """Descriptions of the images of one batch at a time.

    `images`: the argument of the letterbox. `version`: another number whenever that has changed. `views`, `taps`: the
    GPU's addresses of what only the places determine: how boxes become those of the frame, and the pixels' neighbors.
    `crops`: the letterbox needs no neighbors.
    """

    def __init__(self, memory: Memory, batch: int, size: tuple[int, int], crops: bool) -> None:
        self._memory, self._crops = memory, crops
        self.images = np.zeros(IMAGES, IMAGE)
        self._addresses = self.images["data"].data  # setting one takes a tenth of the time it takes in an array
        self._tables = memory.gpu.host((batch * VIEW.itemsize + batch * sum(size) * TAP.itemsize,), "uint8")
        self._views, self._taps = (
            self._tables[: batch * VIEW.itemsize].view(VIEW),
            self._tables[batch * VIEW.itemsize :].view(TAP),
        )
        self.views = memory.take(self._tables.nbytes)
        self.taps = self.views + self._views.nbytes
        self.version = 0
        self._places: list[Place | None] = [None] * batch
        self._offsets = [0] * batch

    def place(self, frames: Sequence[Frame]) -> None:
        """Describe the sizes and places of these frames, unless they are those of the frames before."""
        places = self._places
        for i, (_, place) in enumerate(frames):
            if place is not places[i]:
                self._describe([place for _, place in frames])
                return

    def _describe(self, places: Sequence[Place]) -> None:
        end, batch = 0, len(self._places)
        self._places = [None] * batch  # until all are described
        for i, place in enumerate(places):
            end = image_of(place, self.images[i], end, None if self._crops else self._taps)
            view_of(place, self._views[i])
            self._offsets[i] = offset_of(place)
        used = self._views.nbytes + end * TAP.itemsize
        self._memory.copy(self._tables[:used], self.views)
        self._places = [*places, *[None] * (batch - len(places))]
        self.version += 1

    def locate(self, index: int, base: int) -> None:
        """Set the address of a frame's first byte. `place` comes first."""
        address = base + self._offsets[index]
        if self._addresses[index] != address:
            self._addresses[index] = address
            self.version += 1
