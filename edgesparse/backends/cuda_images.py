"""Where the pictures of a batch lie while they are on their way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda import Gpu


class Image:
    """Room for one picture of a batch: page-locked, for frames that are not, and on a GPU with memory of its own."""

    def __init__(self, card: Gpu) -> None:
        self._gpu, self.device, self._room = card, 0, 0
        self._block: Any = None
        self._staging: NDArray[np.uint8] | None = None

    def grows(self, frame: NDArray[np.uint8]) -> bool:
        """Make room on the GPU for a frame that is larger than any before; whether that was so."""
        if self._gpu.integrated or frame.nbytes <= self._room:
            return False
        self.free()
        self._block, self._room = self._gpu.memory(frame.nbytes), frame.nbytes
        self.device = int(self._block)
        return True

    def of(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The page-locked bytes of a frame: its own, or a copy."""
        if frame.flags.c_contiguous and self._gpu.pinned(frame) is not None:
            return frame
        if self._staging is None or self._staging.nbytes < frame.nbytes:
            self._staging = self._gpu.host((frame.nbytes,), "uint8", combined=True)
        staged = self._staging[: frame.nbytes]
        np.copyto(staged.reshape(frame.shape), frame)
        return staged

    def data(self, source: NDArray[np.uint8]) -> int:
        """Where the kernel finds what `of` gave."""
        if not self._gpu.integrated:
            return self.device
        pinned = self._gpu.pinned(source)
        assert pinned is not None
        return pinned.address

    def free(self) -> None:
        if self._block is not None:
            self._block.free()
        self._block, self._room = None, 0
