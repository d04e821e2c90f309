"""The memory of one slot on the GPU."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edgesparse.backends.cuda.gpu import Gpu


class Memory:
    """Blocks of GPU memory in the list `blocks`, whose owner frees them, and copies into them on `stream`.

    Addresses are those of the GPU. Call it with the context current.
    """

    def __init__(self, gpu: Gpu, stream: Any, blocks: list[Any]) -> None:
        self.gpu, self.stream, self._blocks = gpu, stream, blocks

    def take(self, size: int) -> int:
        """Return the address of `size` bytes."""
        block = self.gpu.memory(size)
        self._blocks.append(block)
        return int(block)

    def constant(self, values: NDArray[Any]) -> int:
        """Copy values that never change; returns their address."""
        at = self.take(values.nbytes)
        self.copy(values, at)
        return at

    def copy(self, values: NDArray[Any], to: int) -> None:
        """Copy an array to GPU memory before what is enqueued later."""
        self.gpu.driver.memcpy_htod_async(to, values, self.stream)

    def mapped(self, array: NDArray[Any]) -> int:
        """The address of an array in page-locked memory (`Gpu.host`)."""
        pinned = self.gpu.pinned(array)
        assert pinned is not None
        return pinned.address
