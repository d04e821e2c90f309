"""Page-locked memory for the images of a batch while it is processed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda.gpu import Gpu, Pinned
from edgesparse.backends.frames import Frame, Place


class Image:
    """One image of a batch in page-locked memory, which the kernel reads, over the bus if the GPU has its own memory.

    Frames in other memory are copied into a staging buffer first. `source`: the frame that the GPU reads until the
    batch is done. `data`: its address on the GPU.
    """

    source: NDArray[np.uint8]

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self.data = gpu, 0
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
        np.copyto(rows_read(staged.reshape(frame.shape), place), rows_read(frame, place))
        return staged, pinned


def rows_read(frame: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    """The rows that the letterbox reads, if they form a pattern: every third when 1080 lines become 360, two of six
    when 2160 do. Otherwise, and for NV12 with its color planes after the rows, all of them."""
    times, rest = divmod(place.frame_height, place.height)
    if rest or place.pixels == "nv12":
        return frame
    return frame.reshape(place.height, times, *frame.shape[1:])[:, (times - 1) // 2 : times // 2 + 1]
