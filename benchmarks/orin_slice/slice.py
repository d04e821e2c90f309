"""A slice of a GPU with as many multiprocessors as an Orin, in which engines are built and timed.

The slice is a green context (green_context.c), current in the single thread of a process that builds and times. CUDA is
called through the driver's library by ctypes: pycuda cannot adopt a context that it did not create.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from edgesparse.backends.cuda.graph import Graph, check

HERE = Path(__file__).resolve().parent
TIMED_US = 3_000.0
"""Microseconds that an engine runs between two events, long enough for the events' own cost not to matter."""


def compiled(source: str, *libraries: str) -> Path:
    """The shared library of a C file in this folder, compiled once per process tree. Raises CalledProcessError."""
    out = Path(tempfile.gettempdir()) / f"orin_slice_{os.getuid()}" / f"lib{Path(source).stem}.so"
    if not out.exists():
        out.parent.mkdir(exist_ok=True)
        cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        command = ["gcc", "-shared", "-fPIC", "-w", str(HERE / source), f"-I{cuda}/include", "-o", str(out), *libraries]
        subprocess.run(command, check=True)
    return out


@contextlib.contextmanager
def shared_gpu(processes: int) -> Iterator[dict[str, str]]:
    """The environment in which `processes` processes use the GPU at the same time, each in its own slice.

    Without CUDA's Multi-Process Service they would use it in turns, and seven builders at once finish nothing. The
    service that CUDA_MPS_PIPE_DIRECTORY names is used if there is one. Raises RuntimeError where none is installed.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if processes == 1 or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield {}
        return
    if control is None:
        raise RuntimeError("several builds at once need nvidia-cuda-mps-control: use --jobs 1")
    with tempfile.TemporaryDirectory() as folder:
        names = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
        environment = {**os.environ, **dict.fromkeys(names, folder)}
        environment.pop("LD_LIBRARY_PATH", None)
        subprocess.run([control, "-d"], env=environment, check=True, timeout=30)
        try:
            yield dict.fromkeys(names, folder)
        finally:
            subprocess.run([control], input=b"quit\n", env=environment, check=False, timeout=60)


class Slice:
    """A context on `sms` multiprocessors that is current in this thread until the process ends; 0 means all of them.

    Slices with different `index` have no multiprocessor in common.
    """

    def __init__(self, sms: int, index: int = 0) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
        self._context = ctypes.c_void_p()
        check(self.cuda.cuInit(0), "cuInit")
        if sms:
            library = ctypes.CDLL(str(compiled("green_context.c")))
            self.sms = int(library.green_make(sms, index, ctypes.byref(self._context)))
            if self.sms < 0:
                raise RuntimeError(f"no green context of {sms} multiprocessors: error {self.sms}")
            check(library.green_push(self._context), "green_push")
        else:
            device = ctypes.c_int()
            check(self.cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
            check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device), "cuDevicePrimaryCtxRetain")
            check(self.cuda.cuCtxPushCurrent_v2(self._context), "cuCtxPushCurrent")
            self.sms = 0

    def memory(self, size: int) -> int:
        """Allocate zeroed device memory. It is never freed, since the process is short-lived."""
        pointer = ctypes.c_uint64()
        check(self.cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(max(size, 4))), "cuMemAlloc")
        check(self.cuda.cuMemsetD8_v2(pointer, ctypes.c_ubyte(0), ctypes.c_size_t(max(size, 4))), "cuMemsetD8")
        return pointer.value

    def stream(self) -> int:
        stream = ctypes.c_void_p()
        check(self.cuda.cuStreamCreate(ctypes.byref(stream), 1), "cuStreamCreate")
        return stream.value or 0

    def event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        check(self.cuda.cuEventCreate(ctypes.byref(event), 0), "cuEventCreate")
        return event


class Timed:
    """An engine whose launch is captured as one CUDA graph."""

    def __init__(self, place: Slice, trt: Any, engine: Any) -> None:
        self._place, self._stream = place, place.stream()
        self._context = engine.create_execution_context()
        addresses = []
        for i in range(engine.num_bindings):
            size = trt.volume(engine.get_binding_shape(i)) * engine.get_binding_dtype(i).itemsize
            addresses.append(place.memory(size))
        self._run(addresses)
        self._graph = Graph(self._stream, lambda: self._run(addresses))
        self._before, self._after = place.event(), place.event()
        self.microseconds(3)
        self._repeats = max(1, round(TIMED_US / max(self.microseconds(3), 1.0)))

    def _run(self, addresses: list[int]) -> None:
        if not self._context.execute_async_v2(addresses, self._stream):
            raise RuntimeError("TensorRT cannot run the engine")

    def microseconds(self, repeats: int = 0) -> float:
        """Mean over `repeats` consecutive launches (by default as many as take about TIMED_US)."""
        repeats, cuda = repeats or self._repeats, self._place.cuda
        stream, elapsed = ctypes.c_void_p(self._stream), ctypes.c_float()
        check(cuda.cuEventRecord(self._before, stream), "cuEventRecord")
        for _ in range(repeats):
            self._graph.launch()
        check(cuda.cuEventRecord(self._after, stream), "cuEventRecord")
        check(cuda.cuEventSynchronize(self._after), "cuEventSynchronize")
        check(cuda.cuEventElapsedTime(ctypes.byref(elapsed), self._before, self._after), "cuEventElapsedTime")
        return 1e3 * elapsed.value / repeats


def interleaved(engines: Mapping[str, Timed], rounds: int = 25) -> dict[str, dict[str, float]]:
    """Median microseconds and spread (90th minus 10th percentile, as a share of the median), timed in interleaved
    rounds."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            times[name].append(engine.microseconds())
    return {name: _summary(sorted(values)) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    middle = median(values)
    spread = (values[int(0.9 * (len(values) - 1))] - values[int(0.1 * (len(values) - 1))]) / middle
    return {"us": round(middle, 2), "spread": round(spread, 4)}


def clocks(call: Callable[..., bytes] = subprocess.check_output) -> dict[str, str]:
    """nvidia-smi's readings of the first GPU: clocks in MHz, temperature, power."""
    names = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "driver_version", "name")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={visible}", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "LD_LIBRARY_PATH")}
    text = call(command, env=environment, timeout=20).decode()
    return dict(zip(names, (part.strip() for part in text.split(",")), strict=False))
