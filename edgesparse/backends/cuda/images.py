"""The memory in which the kernels read the images of a batch: page-locked memory, or the GPU's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda.gpu import Gpu, Pinned
from edgesparse.backends.cuda.layouts import offset_of
from edgesparse.backends.cuda.lent import Lent
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.backends.frames import Frame, Place


class Image:
    """One image of a batch in page-locked memory, which the kernel reads, over the bus if the GPU has its own memory;
    or in GPU memory, `lent` until the batch is done.

    Frames in other memory are copied into a staging buffer first. `source`: the frame that the GPU reads until the
    batch is done; None: one in GPU memory. `base`: its address on the GPU; `data`: that of the part that the model
    sees.
    """

    source: NDArray[np.uint8] | None

    def __init__(self, gpu: Gpu, lent: Lent) -> None:
        self._gpu, self._lent, self.base, self.data = gpu, lent, 0, 0
        self._staging: NDArray[np.uint8] | None = None

    def take(self, frame: Frame, before: Image | None = None, whole: bool = False) -> None:
        """Hold a frame. `before`: what holds the same frame already; `whole`: more than this place is read of it."""
        source, place = frame
        if before is not None:
            self.source, base = before.source, before.base
        elif isinstance(source, DeviceFrame):
            self.source, base = None, self._lent.take(source)
        else:
            pinned = self._gpu.pinned(source) if source.flags.c_contiguous else None
            if pinned is None:
                source, pinned = self._staged(source, place, whole)
            self.source, base = source, pinned.address
        self.base, self.data = base, base + offset_of(place)

    def _staged(self, frame: NDArray[np.uint8], place: Place, whole: bool) -> tuple[NDArray[np.uint8], Pinned]:
        if self._staging is None or self._staging.nbytes < frame.nbytes:
            self._staging = self._gpu.host((frame.nbytes,), "uint8", combined=True)
        staged, pinned = self._staging[: frame.nbytes], self._gpu.pinned(self._staging)
        assert pinned is not None
        copy = staged.reshape(frame.shape)
        if whole:
            np.copyto(copy, frame)
        else:
            np.copyto(rows_read(copy, place), rows_read(frame, place))
        return staged, pinned


def rows_read(frame: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    """The rows that the letterbox reads, if they form a pattern: every third when 1080 lines become 360, two of six
    when 2160 do. Otherwise, for a part and for NV12 with its color planes after the rows, all of them."""
    times, rest = divmod(place.frame_height, place.height)
    if rest or place.part or place.pixels == "nv12":
        return frame
    return frame.reshape(place.height, times, *frame.shape[1:])[:, (times - 1) // 2 : times // 2 + 1]
