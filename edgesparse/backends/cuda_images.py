"""Where the pictures of a batch lie while they are on their way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda import Gpu, Pinned


class Image:
    """Room for one picture of a batch: page-locked, for frames that are not, and on a GPU with memory of its own.

    `source`: the frame in page-locked memory, which must live until the batch is done: it is copied, or on an
    integrated GPU read, behind our back. `host`: where that begins; `data`: where the kernel finds it.
    """

    source: NDArray[np.uint8]

    def __init__(self, card: Gpu) -> None:
        self._gpu, self.host, self.data, self._room = card, 0, 0, 0
        self._block: Any = None
        self._staging: NDArray[np.uint8] | None = None

    def take(self, frame: NDArray[np.uint8]) -> bool:
        """The next frame. Whether it is larger than any before, so that room was made for it on the GPU."""
        pinned = self._gpu.pinned(frame) if frame.flags.c_contiguous else None
        if pinned is None:
            frame, pinned = self._staged(frame)
        self.source, self.host = frame, pinned.host
        if self._gpu.integrated:
            self.data = pinned.address
            return False
        if frame.nbytes <= self._room:
            return False
        self.free()
        self._block, self._room = self._gpu.memory(frame.nbytes), frame.nbytes
        self.data = int(self._block)
        return True

    def _staged(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Pinned]:
        """A copy in page-locked memory."""
        if self._staging is None or self._staging.nbytes < frame.nbytes:
            self._staging = self._gpu.host((frame.nbytes,), "uint8", combined=True)
        staged, pinned = self._staging[: frame.nbytes], self._gpu.pinned(self._staging)
        assert pinned is not None
        np.copyto(staged.reshape(frame.shape), frame)
        return staged, pinned

    def free(self) -> None:
        if self._block is not None:
            self._block.free()
        self._block, self._room = None, 0
