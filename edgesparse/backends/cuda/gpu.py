"""The GPU of this process: its primary context, its memory, streams and events, through pycuda.

Each process has one context, the device's primary one, which TensorRT uses too. It is retained once and is current in a
thread only while it is used there: pycuda aborts a process that leaves one behind. A context does not survive a fork:
start processes that use the GPU with spawn.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse import device
from edgesparse.errors import BackendUnavailable, BuildError, MemoryBudgetExceeded

_REMEDY = "pip install pycuda (with CUDA's compiler on the PATH), and look at nvidia-smi or, on a Jetson, tegrastats"
_NON_BLOCKING = 1
_WORD = 4
"""Kernels read words of this many bytes: memory is rounded up so that a frame's last word is complete."""
_DEAD = re.compile(r"illegal|launch fail|assert|hardware stack|misaligned|invalid program counter|ECC", re.I)
"""Errors after which the context is unusable."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_gpus: list[Gpu] = []


def gpu() -> Gpu:
    """The first GPU visible to this process. Raises BackendUnavailable with the remedy."""
    with _lock:
        if not _gpus:
            _gpus.append(Gpu())
    if _gpus[0].process != os.getpid():
        raise BackendUnavailable("CUDA does not survive a fork: start the process that uses the GPU with spawn")
    return _gpus[0]


class Gpu:
    """One GPU. `sm`: compute capability such as '8.7'. `total`: bytes. `integrated`: it shares the CPU's memory."""

    def __init__(self) -> None:
        try:
            import pycuda.driver as driver
        except (ImportError, OSError) as error:
            raise BackendUnavailable(f"pycuda does not load ({one_line(error)}): {_REMEDY}") from None
        try:
            driver.init()
            if driver.Device.count() == 0:
                raise BackendUnavailable(f"CUDA finds no GPU: {_REMEDY}")
            first = driver.Device(0)
            attribute = driver.device_attribute
            self.integrated = bool(first.get_attribute(attribute.INTEGRATED))
            self.name, self.total = str(first.name()), int(first.total_memory())
            self.sm = ".".join(map(str, first.compute_capability()))
            self._context = first.retain_primary_context()
        except driver.Error as error:
            raise BackendUnavailable(f"CUDA does not start ({one_line(error)}): {_REMEDY}") from None
        self.driver, self.process = driver, os.getpid()
        weakref.finalize(self, self._context.detach)  # at the process's end, after everything created later
        self._pinned: weakref.WeakValueDictionary[int, Pinned] = weakref.WeakValueDictionary()
        self.kernels: Any = None

    def __enter__(self) -> Gpu:
        """Make its context current in this thread; may be nested."""
        self._context.push()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.pop()

    def errors_of(self, action: str) -> CudaErrors:
        """Return a context manager: its context is current, and CUDA errors become one line that starts with `action`.
        Raises MemoryBudgetExceeded if memory runs out, and BuildError otherwise. It may be entered repeatedly.
        """
        return CudaErrors(self, action)

    def free(self) -> int:
        """Return the bytes available now: of its own memory or, if it shares the CPU's, without swapping."""
        if self.integrated:
            return device.available_memory()
        try:
            with self:
                return int(self.driver.mem_get_info()[0])
        except self.driver.Error:
            return 0

    def host(self, shape: Sequence[int], dtype: Any, combined: bool = False) -> NDArray[Any]:
        """Zeroed page-locked memory, which the GPU reads directly, over the bus if it has its own memory.

        The memory lives as long as the array and its views. Call it with the context current (`errors_of`).
        `combined`: the CPU only writes it, so that an integrated GPU may bypass the caches (write-combined).
        """
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        pinned = Pinned(self, -(-max(size, 1) // _WORD) * _WORD, combined and self.integrated)
        array = np.asarray(pinned)
        array[...] = 0
        self._pinned[pinned.host] = pinned
        view: NDArray[Any] = array[:size].view(dtype).reshape(tuple(shape))
        return view

    def pinned(self, array: NDArray[Any]) -> Pinned | None:
        """The page-locked memory that an array of `host` starts at; None for any other array.

        Keep the array while its address is in use.
        """
        memory = self._pinned.get(address(array))
        return memory if memory is not None and array.nbytes <= memory.size else None

    def memory(self, size: int) -> Any:
        """Device memory of `size` bytes: `int` of it is the address, `free` frees it."""
        return self.driver.mem_alloc(-(-max(size, 1) // _WORD) * _WORD)

    def free_all(self, steps: Iterable[Callable[[], object]]) -> None:
        """Run each step in this order. A GPU error is logged and does not keep the others from running."""
        for step in steps:
            try:
                with self:
                    step()
            except self.driver.Error as error:  # noqa: PERF203, the others must run all the same
                _log.warning("GPU memory may not have been freed: %s", one_line(error))

    def stream(self) -> Any:
        """A stream that does not wait for the default one; `handle` is CUDA's handle of it."""
        return self.driver.Stream(_NON_BLOCKING)

    def event(self) -> Any:
        """An event that can be timed."""
        return self.driver.Event()

    def mark(self) -> Any:
        """An event that can only be waited for, which costs less to record."""
        return self.driver.Event(self.driver.event_flags.DISABLE_TIMING)


class CudaErrors:
    """`Gpu.errors_of`. A class rather than a generator, as the frame loop enters it twice per batch."""

    def __init__(self, gpu: Gpu, action: str) -> None:
        self._gpu, self._action = gpu, action
        self._push, self._pop = gpu._context.push, gpu._context.pop

    def __enter__(self) -> None:
        self._push()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._pop()
        if error is None:
            return
        driver = self._gpu.driver
        if isinstance(error, driver.MemoryError):
            raise MemoryBudgetExceeded(
                f"{self._action}: the GPU has no memory left ({self._gpu.free() / 1e6:.0f} MB free): stop other "
                "programs, or build with a smaller batch or input"
            ) from None
        if isinstance(error, driver.Error):
            raise BuildError(cuda_error(self._action, one_line(error))) from None


class Pinned:
    """Page-locked host memory, kept alive by its arrays. `host`, `address`: its address for the CPU and the GPU."""

    def __init__(self, owner: Gpu, size: int, combined: bool) -> None:
        driver = owner.driver
        flags = driver.host_alloc_flags.DEVICEMAP | (driver.host_alloc_flags.WRITECOMBINED if combined else 0)
        self._owner, self.size = owner, size
        self._memory: Any = driver.pagelocked_empty(size, np.uint8, mem_flags=flags)
        self.address = int(self._memory.base.get_device_pointer())
        self.__array_interface__ = self._memory.__array_interface__
        self.host = int(self.__array_interface__["data"][0])

    def __del__(self) -> None:
        try:
            with self._owner:  # this may be any thread
                del self._memory
        except Exception:  # at the process's end the driver may be gone
            pass


def cuda_error(action: str, message: str) -> str:
    """What failed, CUDA's message, and whether the process must be restarted, in one line."""
    restart = ": this process can no longer use the GPU: restart it" if _DEAD.search(message) else ""
    return f"{action}: CUDA reports: {message}{restart}"


def one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__


def address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
