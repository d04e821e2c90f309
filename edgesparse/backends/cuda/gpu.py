"""The GPU of this process: its primary context, its memory, streams and events, through pycuda.

There is one context a process, the device's primary one, which TensorRT uses too. It is retained once and made current
only for as long as it is used, in whichever thread that is: pycuda ends a process that leaves one behind. A context
does not outlive a fork: start processes that use the GPU anew (spawn).
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
"""Bytes that kernels read at once: the end of a frame lies in a word that is there."""
_DEAD = re.compile(r"illegal|launch fail|assert|hardware stack|misaligned|invalid program counter|ECC", re.I)
"""Errors after which a context is of no use any more."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_found: list[Gpu] = []


def gpu() -> Gpu:
    """The first GPU that this process sees. Raises BackendUnavailable with the remedy."""
    with _lock:
        if not _found:
            _found.append(Gpu())
    if _found[0].process != os.getpid():
        raise BackendUnavailable("CUDA does not outlive a fork: start the process that uses the GPU anew (spawn)")
    return _found[0]


class Gpu:
    """One GPU. `sm`: compute capability, as '8.7'. `total`: bytes. `integrated`: it shares the CPU's memory."""

    def __init__(self) -> None:
        try:
            import pycuda.driver as driver
        except (ImportError, OSError) as error:
            raise BackendUnavailable(f"pycuda does not load ({one_line(error)}): {_REMEDY}") from None
        try:
            driver.init()
            if driver.Device.count() == 0:
                raise BackendUnavailable(f"CUDA finds no GPU: {_REMEDY}")
            found = driver.Device(0)
            attribute = driver.device_attribute
            self.integrated = bool(found.get_attribute(attribute.INTEGRATED))
            self.name, self.total = str(found.name()), int(found.total_memory())
            self.sm = ".".join(map(str, found.compute_capability()))
            self._context = found.retain_primary_context()
        except driver.Error as error:
            raise BackendUnavailable(f"CUDA does not start ({one_line(error)}): {_REMEDY}") from None
        self.driver, self.process = driver, os.getpid()
        weakref.finalize(self, self._context.detach)  # at the process's end, after all that was made later
        self._pinned: weakref.WeakValueDictionary[int, Pinned] = weakref.WeakValueDictionary()
        self.kernels: Any = None

    def __enter__(self) -> Gpu:
        """Its context is current in this thread; may be nested."""
        self._context.push()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.pop()

    def doing(self, what: str) -> Doing:
        """Its context is current; what CUDA refuses in it is one line that begins with `what`.

        Raises MemoryBudgetExceeded when memory runs out, BuildError for all else. It may be entered again and again.
        """
        return Doing(self, what)

    def free(self) -> int:
        """Bytes that can be had now: of its own memory, or, where it shares the CPU's, without swapping."""
        if self.integrated:
            return device.available_memory()
        try:
            with self:
                return int(self.driver.mem_get_info()[0])
        except self.driver.Error:
            return 0

    def host(self, shape: Sequence[int], dtype: Any, combined: bool = False) -> NDArray[Any]:
        """Zeroed page-locked memory, which the GPU reaches by itself: over the bus, or, sharing the CPU's, as its own.

        The memory lives as long as the array and its views do. Call it with the context current (`doing`). `combined`:
        the CPU only writes it: on an integrated GPU its caches are left out then (write-combined).
        """
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        pinned = Pinned(self, -(-max(size, 1) // _WORD) * _WORD, combined and self.integrated)
        array = np.asarray(pinned)
        array[...] = 0
        self._pinned[pinned.host] = pinned
        found: NDArray[Any] = array[:size].view(dtype).reshape(tuple(shape))
        return found

    def pinned(self, array: NDArray[Any]) -> Pinned | None:
        """The page-locked memory that an array of `host` begins with; None for any other array.

        Whoever uses its address keeps the array.
        """
        found = self._pinned.get(address(array))
        return found if found is not None and array.nbytes <= found.size else None

    def memory(self, size: int) -> Any:
        """Device memory of so many bytes: `int` of it is its address, `free` gives it back."""
        return self.driver.mem_alloc(-(-max(size, 1) // _WORD) * _WORD)

    def free_all(self, steps: Iterable[Callable[[], object]]) -> None:
        """Each of them, in this order; what an error of the GPU keeps from being freed is said."""
        for step in steps:
            try:
                with self:
                    step()
            except self.driver.Error as error:  # noqa: PERF203, the rest must be freed all the same
                _log.warning("memory of the GPU may not be free again: %s", one_line(error))

    def stream(self) -> Any:
        """A stream that does not wait for the default one; `handle` is what CUDA calls it."""
        return self.driver.Stream(_NON_BLOCKING)

    def event(self) -> Any:
        return self.driver.Event()


class Doing:
    """`Gpu.doing`: a class, for the frame loop enters it twice a frame."""

    def __init__(self, card: Gpu, what: str) -> None:
        self._card, self._what = card, what

    def __enter__(self) -> None:
        self._card._context.push()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._card._context.pop()
        driver = self._card.driver
        if isinstance(error, driver.MemoryError):
            raise MemoryBudgetExceeded(
                f"{self._what}: the GPU has no memory left ({self._card.free() / 1e6:.0f} MB free): end other "
                "programs, or build with a smaller batch or input"
            ) from None
        if isinstance(error, driver.Error):
            raise BuildError(cuda_says(self._what, one_line(error))) from None


class Pinned:
    """Page-locked host memory: what numpy.asarray makes of it holds it. `host`, `address`: how CPU and GPU call it."""

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
            with self._owner:  # whichever thread this is
                del self._memory
        except Exception:  # at the process's end nothing is left to free it with
            pass


def cuda_says(what: str, text: str) -> str:
    """One line of what failed, in CUDA's words, and whether this process can go on."""
    over = ": this process cannot use the GPU any more, start it again" if _DEAD.search(text) else ""
    return f"{what}: CUDA says: {text}{over}"


def one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__


def address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
