"""The memory that a build may take: how much there is, what it took, and the rungs on which it is made to take less.

Where CPU and GPU share memory (Jetson) the budget bounds what both take together; with a GPU of its own, what is taken
there; without any, what the process takes.
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
"""Share of all memory that is left to the system."""

Where = Literal["shared", "gpu", "host"]


@dataclass(frozen=True)
class Budget:
    """`size` in bytes; None where nobody knows what is free."""

    size: int | None
    where: Where
    said: bool = False
    """Whether the recipe says so."""

    def __str__(self) -> str:
        size = "of unknown size" if self.size is None else f"of {self.size / MB:,.0f} MB"
        return f"a budget {size} ({'build.memory' if self.said else 'what was free, less a reserve'})"


@dataclass(frozen=True)
class Spent:
    """Peaks in bytes: of the child's own memory, and on the device (None where that could not be measured)."""

    host: int = 0
    device: int | None = None
    loaded: int | None = None
    """What counted against the budget when the library was loaded (with CUDA's context) and nothing was built yet."""

    def under(self, where: Where) -> int:
        """What counts against a budget."""
        return self.host if where == "host" else max(self.device or 0, self.host if where == "shared" else 0)

    def __or__(self, other: Spent) -> Spent:
        return Spent(max(self.host, other.host), _most(self.device, other.device), _most(self.loaded, other.loaded))


def _most(a: int | None, b: int | None) -> int | None:
    return max((size for size in (a, b) if size is not None), default=None)


def budget(engine: Backend, said: int | None) -> Budget:
    """The recipe's budget, or what is free less a reserve."""
    where = _where(engine)
    if said is not None:
        return Budget(said, where, True)
    if where == "gpu":
        found = gpu_memory()
        return Budget(int(found[0] - RESERVE * found[1]) if found else None, where)
    return Budget(max(int(device.available_memory() - RESERVE * device.probe().memory), 0), where)


def _where(engine: Backend) -> Where:
    if not engine.name.startswith("tensorrt"):
        return "host"
    return "shared" if device.probe().l4t else "gpu"


def rungs(size: int | None, level: int | None = None) -> tuple[Limits, ...]:
    """From plenty to little: each rung takes the next lever in the order of what it gains for what it costs. None of
    them loads cuDNN and cuBLAS, which take the most. `level`: the highest optimisation level that any has. A backend
    ignores the levers that its release lacks."""
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
    """Which levers a rung takes."""
    said = [f"workspace {limits.workspace / MB:,.0f} MB"] if limits.workspace is not None else ["nothing limited"]
    said += ["no auxiliary streams"] if limits.aux_streams == 0 else []
    said += [f"optimisation level {limits.level}"] if limits.level is not None else []
    said += [f"{limits.tactics} tactics a layer"] if limits.tactics is not None else []
    said += [] if limits.edge_masks else ["no edge-mask convolutions"]
    return ", ".join(said)


class Meter:
    """Samples what a child takes; what was taken before it began does not count."""

    def __init__(self, where: Where, pid: int) -> None:
        self._where, self._pid = where, pid
        self._before = self._taken()
        self.spent = Spent()

    def sample(self) -> None:
        now = self._taken()
        taken = None if now is None or self._before is None else max(now - self._before, 0)
        self.spent |= Spent(_peak(self._pid), taken)

    def loaded(self) -> None:
        """The library is there, and nothing is built yet."""
        self.sample()
        self.spent |= Spent(loaded=self.spent.under(self._where))

    def _taken(self) -> int | None:
        if self._where == "gpu":
            found = gpu_memory()
            return found[1] - found[0] if found else None
        return -device.available_memory() if self._where == "shared" else None


def _peak(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def gpu_memory() -> tuple[int, int] | None:
    """Bytes that are free on the GPU, and all of them, from NVML, which makes no CUDA context; None without it."""
    found = _nvml()
    if found is None:
        return None
    nvml, gpu = found
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
