"""The memory in which the kernels read the images of a batch: page-locked memory, or the GPU's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda.gpu import Gpu, Pinned, address
from edgesparse.backends.cuda.lent import Lent
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.backends.frames import Place

Allocate = Callable[[int], int]
"""Returns the address of so many bytes of GPU memory, which its owner frees."""
_log = logging.getLogger(__name__)


class Image:
    """One image of a batch in page-locked memory, which the kernel reads, over the bus if the GPU has its own memory;
    or in GPU memory, `lent` until the batch is done.

    Frames in other memory are copied into a staging buffer first. With `memory`, what is read of a frame is copied into
    GPU memory on the stream of `lent` before the kernel reads it. `source`: the frame that the GPU reads until the
    batch is done; None: one in GPU memory. `base`: its address on the GPU.
    """

    source: NDArray[np.uint8] | None

    def __init__(self, gpu: Gpu, lent: Lent, memory: Allocate | None = None) -> None:
        self._gpu, self._lent, self._memory, self.base = gpu, lent, memory, 0
        self._staging: NDArray[np.uint8] | None = None
        self._copy, self._room = 0, 0

    def take(self, source: NDArray[np.uint8] | DeviceFrame, place: Place, whole: bool = False) -> None:
        """Hold a frame. `whole`: more than this place is read of it."""
        if isinstance(source, DeviceFrame):
            self.source, self.base = None, self._lent.take(source)
        else:
            pinned = self._gpu.pinned(source) if source.flags.c_contiguous else None
            if pinned is None:
                source, pinned = self._staged(source, place, whole)
            self.source, self.base = source, self._copied(source, place, whole) or pinned.address

    def share(self, image: Image) -> None:
        """Hold the frame that another image holds."""
        self.source, self.base = image.source, image.base

    def _copied(self, frame: NDArray[np.uint8], place: Place, whole: bool) -> int:
        """Copy what is read of the frame; returns the address, or 0 if there is no memory to copy into."""
        if self._memory is None or not self._has_room(self._memory, frame.nbytes):
            return 0
        rows, driver, stream = frame if whole else rows_read(frame, place), self._gpu.driver, self._lent.stream
        if rows is frame:
            driver.memcpy_htod_async(self._copy, frame, stream)
            return self._copy
        copy: Any = driver.Memcpy2D()
        copy.set_src_host(frame)
        copy.set_dst_device(self._copy)
        copy.src_x_in_bytes = copy.dst_x_in_bytes = address(rows) - address(frame)
        copy.src_pitch = copy.dst_pitch = rows.strides[0]
        copy.width_in_bytes, copy.height = rows.nbytes // len(rows), len(rows)
        copy(stream)
        return self._copy

    def _has_room(self, memory: Allocate, size: int) -> bool:
        if self._room < size:
            try:
                self._copy, self._room = memory(size), size
            except self._gpu.driver.MemoryError:
                _log.info("no GPU memory for copies of frames: they are read over the bus, which takes longer")
                self._memory = None
        return self._memory is not None

    def _staged(self, frame: NDArray[np.uint8], place: Place, whole: bool) -> tuple[NDArray[np.uint8], Pinned]:
        if self._staging is None or self._staging.nbytes < frame.nbytes:
            self._staging = self._gpu.host((frame.nbytes,), "uint8", combined=True)
        pinned = self._gpu.pinned(self._staging)
        assert pinned is not None
        copy = self._staging[: frame.nbytes].reshape(frame.shape)
        if whole:
            np.copyto(copy, frame)
        else:
            np.copyto(rows_read(copy, place), rows_read(frame, place))
        return copy, pinned


def rows_read(frame: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    """The rows that the letterbox reads, if they form a pattern: every third when 1080 lines become 360, two of six
    when 2160 do. Otherwise, for a part and for NV12 with its color planes after the rows, all of them."""
    times, rest = divmod(place.frame_height, place.height)
    if rest or place.part or place.pixels == "nv12":
        return frame
    return frame.reshape(place.height, times, *frame.shape[1:])[:, (times - 1) // 2 : times // 2 + 1]
