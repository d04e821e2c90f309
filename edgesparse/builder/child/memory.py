"""The memory budget of a build, how much of it was used, and rungs of limits that make a build use less.

If CPU and GPU share memory (Jetson), the budget covers both together; with a discrete GPU, the memory of the GPU;
without a GPU, the memory of the process.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from edgesparse import device
from edgesparse.backends import Backend
from edgesparse.backends.base import Limits

MB = 1_000_000
RESERVE = 0.1
"""Share of the total memory that is left to the system."""

Where = Literal["shared", "gpu", "host"]


@dataclass(frozen=True)
class Budget:
    """`size` in bytes, or None if free memory is unknown; `explicit` if the recipe sets it."""

    size: int | None
    where: Where
    explicit: bool = False

    def __str__(self) -> str:
        size = "of unknown size" if self.size is None else f"of {self.size / MB:,.0f} MB"
        return f"a budget {size} ({'build.memory' if self.explicit else 'what was free, less a reserve'})"


@dataclass(frozen=True)
class Spent:
    """Peak bytes of the child's own memory, and on the device (None if that cannot be measured)."""

    host: int = 0
    device: int | None = None
    loaded: int | None = None
    """Bytes counted against the budget once the library and the CUDA context were loaded, before building."""

    def under(self, where: Where) -> int:
        """Return the bytes that count against a budget."""
        return self.host if where == "host" else max(self.device or 0, self.host if where == "shared" else 0)

    def __or__(self, other: Spent) -> Spent:
        return Spent(
            max(self.host, other.host), _maximum(self.device, other.device), _maximum(self.loaded, other.loaded)
        )


def _maximum(a: int | None, b: int | None) -> int | None:
    return max((size for size in (a, b) if size is not None), default=None)


def budget(backend: Backend, size: int | None) -> Budget:
    """Return the recipe's budget of `size` bytes, or the free memory minus a reserve."""
    where = _where(backend)
    if size is not None:
        return Budget(size, where, True)
    if where == "gpu":
        memory = gpu_memory()
        return Budget(int(memory[0] - RESERVE * memory[1]) if memory else None, where)
    return Budget(max(int(device.available_memory() - RESERVE * device.probe().memory), 0), where)


def _where(backend: Backend) -> Where:
    if not backend.name.startswith("tensorrt"):
        return "host"
    return "shared" if device.probe().l4t else "gpu"


def rungs(size: int | None, level: int | None = None) -> tuple[Limits, ...]:
    """Return limits from generous to tight; each rung adds the lever that saves the most memory for the speed it costs.

    No rung loads cuDNN and cuBLAS, which use the most. `level` is the highest optimization level of any rung. A backend
    ignores the levers that its release lacks.
    """
    if size is None:
        return (Limits(level=level), *rungs(4096 * MB, level)[1:])
    lower = 2 if level is None else min(level, 2)
    return (
        Limits(workspace=size // 2, tactic_memory=3 * size // 4, level=level),
        Limits(workspace=min(size // 4, 1024 * MB), tactic_memory=size // 2, level=level),
        Limits(workspace=min(size // 8, 256 * MB), tactic_memory=size // 2, aux_streams=0, level=level),
        Limits(workspace=min(size // 16, 64 * MB), tactic_memory=size // 2, aux_streams=0, level=lower),
        Limits(
            workspace=min(size // 32, 32 * MB),
            tactic_memory=size // 2,
            aux_streams=0,
            level=min(lower, 1),
            tactics=8,
            edge_masks=False,
        ),
    )


def words(limits: Limits) -> str:
    """Describe the levers of a rung, for messages."""
    levers = [f"workspace {limits.workspace / MB:,.0f} MB"] if limits.workspace is not None else ["nothing limited"]
    levers += ["no auxiliary streams"] if limits.aux_streams == 0 else []
    levers += [f"optimization level {limits.level}"] if limits.level is not None else []
    levers += [f"{limits.tactics} tactics per layer"] if limits.tactics is not None else []
    levers += [] if limits.edge_masks else ["no edge-mask convolutions"]
    return ", ".join(levers)


class Meter:
    """Samples the memory that a child uses, without what was in use before it started."""

    def __init__(self, where: Where, pid: int) -> None:
        self._where, self._pid = where, pid
        self._before = self._used()
        self.spent = Spent()

    def sample(self) -> None:
        now = self._used()
        used = None if now is None or self._before is None else max(now - self._before, 0)
        self.spent |= Spent(_peak(self._pid), used)

    def loaded(self) -> None:
        """Record the use once the library is loaded and before anything is built."""
        self.sample()
        self.spent |= Spent(loaded=self.spent.under(self._where))

    def _used(self) -> int | None:
        if self._where == "gpu":
            memory = gpu_memory()
            return memory[1] - memory[0] if memory else None
        return -device.available_memory() if self._where == "shared" else None


def _peak(pid: int) -> int:
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def gpu_memory() -> tuple[int, int] | None:
    """Return free and total bytes of the GPU, from NVML, which creates no CUDA context; None without NVML."""
    opened = _nvml()
    if opened is None:
        return None
    nvml, gpu = opened
    memory = _Memory()
    if nvml.nvmlDeviceGetMemoryInfo(gpu, ctypes.byref(memory)):
        return None
    return int(memory.free), int(memory.total)


@lru_cache(1)
def _nvml() -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    gpu = ctypes.c_void_p()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if nvml.nvmlInit_v2():
        return None
    if visible.isdigit():
        failed = nvml.nvmlDeviceGetHandleByIndex_v2(int(visible), ctypes.byref(gpu))
    else:
        failed = nvml.nvmlDeviceGetHandleByUUID(visible.encode(), ctypes.byref(gpu))
    return None if failed else (nvml, gpu)
