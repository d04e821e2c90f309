"""Where the images of a batch lie while they are on their way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda.gpu import Gpu, Pinned
from edgesparse.backends.frames import Frame, Place


class Image:
    """One image of a batch, in page-locked memory, where the kernel reads it: over the bus if the GPU has memory of
    its own. Frames that lie elsewhere are copied into such memory of this one's own first.

    `source`: what is read behind our back, until the batch is done. `data`: where the GPU finds it.
    """

    source: NDArray[np.uint8]

    def __init__(self, card: Gpu) -> None:
        self._gpu, self.data = card, 0
        self._staging: NDArray[np.uint8] | None = None

    def take(self, frame: Frame) -> None:
        source, place = frame
        pinned = self._gpu.pinned(source) if source.flags.c_contiguous else None
        if pinned is None:
            source, pinned = self._staged(source, place)
        self.source, self.data = source, pinned.address

    def _staged(self, frame: NDArray[np.uint8], place: Place) -> tuple[NDArray[np.uint8], Pinned]:
        if self._staging is None or self._staging.nbytes < frame.nbytes:
            self._staging = self._gpu.host((frame.nbytes,), "uint8", combined=True)
        staged, pinned = self._staging[: frame.nbytes], self._gpu.pinned(self._staging)
        assert pinned is not None
        np.copyto(read(staged.reshape(frame.shape), place), read(frame, place))
        return staged, pinned


def read(frame: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    """The rows that the letterbox reads, where they are a pattern: of 1080 lines made 360 every third, of 2160 two of
    six. All of them otherwise; of NV12, whose colours lie behind its rows, always."""
    times, rest = divmod(place.frame_height, place.height)
    if rest or place.pixels == "nv12":
        return frame
    return frame.reshape(place.height, times, *frame.shape[1:])[:, (times - 1) // 2 : times // 2 + 1]
