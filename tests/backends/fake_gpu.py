"""pycuda, the driver's library and TensorRT's runtime as far as a Runner calls them, on the CPU's memory.

Kernels run too: the CPU's compiler makes a library of the same sources (host_kernels.cpp).

Addresses are real ones, so what is copied to a wrong place is seen; what is freed twice, used after it was freed, or
called without the context being current in the thread raises, as CUDA would. An enqueue in a capture runs only when
its graph is launched.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesparse.backends.cuda.kernels import SOURCES
from edgesparse.backends.cuda.layouts import IMAGE, IMAGES
from edgesparse.backends.tensorrt.context import DTYPES

Operation = Callable[[], None]


@dataclass
class Launched:
    """A kernel's launch: what a graph tells of it, and lets be changed. `given`: its arguments, as bytes."""

    fake: Fake
    function: int
    grid: list[int]
    given: list[bytes]

    def __call__(self) -> None:
        name, lie = KERNELS[self.function - 1], [ctypes.create_string_buffer(one, len(one)) for one in self.given]
        pointers = (ctypes.c_void_p * len(lie))(*map(ctypes.addressof, lie))
        assert host_kernels().launch(name, (ctypes.c_int * 3)(*self.grid), pointers) == 0
        self.fake.kernels.append(name.decode())


@lru_cache(1)
def host_kernels() -> Any:
    """The kernels' sources as a library for the CPU. Skips the test where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    here, folder = Path(__file__).parent, Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "kernels.so"
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command = ["g++", "-std=c++17", "-O2", "-pthread", *checks, "-shared", "-fPIC", "-I", str(SOURCES)]
    subprocess.run([*command, str(here / "host_kernels.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class Error(Exception):
    pass


class OutOfMemory(Error):
    pass


class Fake:
    """The state of one GPU: what is allocated, what is being captured; `driver` and `library` are its two faces."""

    def __init__(self, integrated: bool = False, free: int = 1 << 30) -> None:
        self.integrated, self.room, self.count = integrated, free, 1
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.hosts = self.streams = self.graphs = self.launches = self.copies = self.renewed = 0
        self.threads = threading.local()
        self.captured: list[Operation] | None = None
        self.uncapturable = self.opaque = False
        self.broken, self.told = "", False  # once the error was told, every launch fails
        self.dla: int | None = None
        self.made: dict[int, list[Operation]] = {}
        self.kernels: list[str] = []
        self.seen: NDArray[Any] | None = None
        self.answers: dict[str, NDArray[Any]] = {}
        self.driver, self.libcuda = _driver(self), _Library(self)

    def enqueue(self, operation: Operation) -> None:
        self.require()
        if self.captured is not None:
            self.captured.append(operation)
        else:
            operation()

    def require(self) -> None:
        if not getattr(self.threads, "depth", 0):
            raise Error("cuSomething failed: invalid device context")

    def allocate(self, size: int) -> int:
        self.require()
        if size > self.room:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        array = np.full(size, 0x5A, np.uint8)
        self.memory[array.ctypes.data] = array
        return int(array.ctypes.data)


class Allocation:
    def __init__(self, fake: Fake, size: int) -> None:
        self.fake, self.address = fake, fake.allocate(size)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.fake.require()
        del self.fake.memory[self.address]


class Host:
    """Page-locked memory, given back when the last array on it goes; that must be with the context current."""

    def __init__(self, fake: Fake, size: int) -> None:
        fake.require()
        self.fake, self.address = fake, np.zeros(size, np.uint8)
        self.__array_interface__ = self.address.__array_interface__
        fake.hosts += 1

    def get_device_pointer(self) -> int:
        return int(self.address.ctypes.data)

    def __del__(self) -> None:
        self.fake.require()
        self.fake.hosts -= 1


class Stream:
    def __init__(self, fake: Fake, flags: int) -> None:
        fake.require()
        assert flags == 1, "a stream that waits for the default one can't be captured beside other threads"
        self.fake, self.handle = fake, 77
        fake.streams += 1

    def synchronize(self) -> None:
        self.fake.require()
        if self.fake.broken:
            self.fake.told = True
            raise Error(f"cuStreamSynchronize failed: {self.fake.broken}")

    def __del__(self) -> None:
        self.fake.streams -= 1


class Event:
    def __init__(self, fake: Fake) -> None:
        fake.require()
        self.fake = fake

    def record(self, stream: Stream) -> Event:
        self.at = self.fake.launches
        return self

    def synchronize(self) -> Event:
        self.fake.require()
        if self.fake.broken:
            self.fake.told = True
            raise Error(f"cuEventSynchronize failed: {self.fake.broken}")
        return self

    def time_till(self, end: Event) -> float:
        return 0.25 * (end.at - self.at)


def _driver(fake: Fake) -> SimpleNamespace:
    def push() -> None:
        fake.threads.depth = getattr(fake.threads, "depth", 0) + 1

    def pop() -> None:
        fake.threads.depth -= 1

    def copy(to: int, source: int, size: int) -> None:
        fake.copies += 1
        ctypes.memmove(to, source, size)

    def htod(memory: Any, host: NDArray[Any], stream: Stream | None = None) -> None:
        assert int(memory) in fake.memory and host.nbytes <= fake.memory[int(memory)].nbytes
        fake.enqueue(partial(copy, int(memory), host.ctypes.data, host.nbytes))

    def dtoh(host: NDArray[Any], memory: Any, stream: Stream) -> None:
        assert int(memory) in fake.memory
        fake.enqueue(partial(copy, host.ctypes.data, int(memory), host.nbytes))

    found = SimpleNamespace(
        get_attribute=lambda name: int(fake.integrated and name == "integrated"),
        name=lambda: "Fake GPU",
        total_memory=lambda: 1 << 33,
        compute_capability=lambda: (8, 7),
        retain_primary_context=lambda: SimpleNamespace(push=push, pop=pop, detach=lambda: None),
    )
    device = SimpleNamespace(count=lambda: fake.count)
    return SimpleNamespace(
        Error=Error,
        MemoryError=OutOfMemory,
        init=lambda: None,
        Device=type("Device", (), {"count": device.count, "__new__": lambda cls, index: found}),
        device_attribute=SimpleNamespace(INTEGRATED="integrated"),
        get_driver_version=lambda: 12060,
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2, WRITECOMBINED=4),
        mem_get_info=lambda: (fake.require(), (fake.room, 1 << 33))[1],
        mem_alloc=lambda size: Allocation(fake, size),
        pagelocked_empty=lambda size, dtype, mem_flags: np.asarray(Host(fake, size)),
        Stream=lambda flags: Stream(fake, flags),
        Event=lambda: Event(fake),
        memcpy_htod_async=htod,
        memcpy_dtoh_async=dtoh,
    )


class _Library:
    """The functions of libcuda that graphs need; pointers are ctypes' as the real ones take them."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    def cuStreamBeginCapture_v2(self, stream: int, mode: int) -> int:
        self.fake.captured = []
        return 0

    def cuStreamEndCapture(self, stream: int, graph: Any) -> int:
        operations, self.fake.captured = self.fake.captured or [], None
        if self.fake.uncapturable:
            return 901
        return self._keep(graph, operations)

    def cuGraphInstantiateWithFlags(self, made: Any, graph: ctypes.c_void_p, flags: int) -> int:
        operations = self.fake.made[graph.value or 0]
        return self._keep(made, [replace(o) if isinstance(o, Launched) else o for o in operations])

    def cuGraphGetNodes(self, graph: ctypes.c_void_p, nodes: Any, count: Any) -> int:
        operations = self.fake.made[graph.value or 0]
        count._obj.value = len(operations)
        for i in range(len(operations) if nodes is not None else 0):
            nodes[i] = 1000 * (graph.value or 0) + i
        return 0

    def _node(self, node: int) -> Operation:
        return self.fake.made[node // 1000][node % 1000]

    def cuGraphNodeGetType(self, node: int, kind: Any) -> int:
        kind._obj.value = 0 if isinstance(self._node(node), Launched) else 2
        return 0

    def cuGraphKernelNodeGetParams(self, node: int, said: Any) -> int:
        found = self._node(node)
        assert isinstance(found, Launched)
        said._obj.func = found.function
        return 1 if self.fake.opaque else 0

    def cuGraphExecKernelNodeSetParams(self, made: Any, node: ctypes.c_void_p, said: Any) -> int:
        found, new = self.fake.made[made.value][(node.value or 0) % 1000], said._obj
        assert isinstance(found, Launched) and new.func == found.function
        assert found.grid == [new.gridDimX, new.gridDimY, new.gridDimZ]
        found.given = _given(found.function, new.kernelParams)
        self.fake.renewed += 1
        return 0

    def cuModuleLoadData(self, module: Any, data: bytes) -> int:
        self.fake.require()
        module._obj.value = 66
        return 0 if data == b"kernels" else 209

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        if name not in KERNELS:
            return 500
        function._obj.value = KERNELS.index(name) + 1
        return 0

    def cuLaunchKernel(self, function: Any, *said: Any) -> int:
        *grid, _, _, _, _, stream, given, _ = said
        assert stream == 77
        number = function.value or 0
        self.fake.enqueue(Launched(self.fake, number, list(map(int, grid)), _given(number, given)))
        return 0

    def _keep(self, reference: Any, operations: list[Operation]) -> int:
        self.fake.graphs += 1
        number = max(self.fake.made, default=0) + 1
        self.fake.made[number] = operations
        reference._obj.value = number
        return 0

    def cuGraphLaunch(self, made: ctypes.c_void_p, stream: Any) -> int:
        self.fake.require()
        if self.fake.told:
            return 700
        if made.value not in self.fake.made:
            return 1
        self.fake.launches += 1
        for operation in self.fake.made[made.value]:
            operation()
        return 0

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        self.fake.graphs -= 1
        del self.fake.made[graph.value or 0]
        return 0

    cuGraphExecDestroy = cuGraphDestroy

    def cuGetErrorName(self, code: int, name: Any) -> int:
        name._obj.value = f"CUDA_ERROR_{code}".encode()
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:
        text._obj.value = self.fake.broken.encode() or b"something went wrong"
        return 0


def _given(function: int, given: Any) -> list[bytes]:
    """A kernel's arguments: pointers, but for the letterbox's images."""
    sizes = [8, IMAGES * IMAGE.itemsize, 8, 8] if KERNELS[function - 1].startswith(b"letterbox") else [8] * 5
    return [ctypes.string_at(given[i], size) for i, size in enumerate(sizes)]


KERNELS = [b"letterbox_float32", b"letterbox_int8", b"letterbox_uint8", b"compact_float32"]


class TensorIOMode(Enum):
    INPUT, OUTPUT = 1, 2


def plan(**said: Any) -> bytes:
    """A plan of the fake: `tensors` (name -> [mode, shape, type]), and what else Engine reads."""
    return json.dumps(said).encode()


SMALL = {"images": ["INPUT", [2, 3], "FLOAT"], "boxes": ["OUTPUT", [2, 3], "HALF"], "count": ["OUTPUT", [], "INT32"]}
"""Its engine gives boxes = 2 * images and count = the number of runs."""


class Engine:
    def __init__(self, fake: Fake, said: dict[str, Any]) -> None:
        self.fake, self.said, self.tensors = fake, said, said["tensors"]
        self.num_io_tensors = len(self.tensors)
        self.device_memory_size = said.get("activations", 1000)
        self.released = False
        self.create_execution_context_without_device_memory = self._bare_context  # until release 11

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self.tensors[name][0]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name][1])

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.tensors[name][2])

    def get_tensor_format(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.said.get("format", "LINEAR"))

    def get_tensor_location(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.said.get("location", "DEVICE"))

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [tuple(dims) for dims in self.said["profile"]]

    def create_execution_context(self) -> Context | None:
        return None if self.said.get("no_context") else Context(self)

    def _bare_context(self) -> Context:
        found = Context(self)
        found.device_memory = 0
        return found


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses, self.runs = engine, dict[str, int](), 0
        self.device_memory: int | None = None
        self.shapes = {name: engine.get_tensor_shape(name) for name in engine.tensors}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        for other, (mode, old, _) in self.engine.tensors.items():
            if mode == "OUTPUT" and old[:1] == [-1] and not self.engine.said.get("unknown"):
                self.shapes[other] = (shape[0], *old[1:])
        return not self.engine.said.get("refuses_shape", False)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return not self.engine.said.get("refuses_address", False)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 77 and set(self.addresses) == set(self.engine.tensors)
        if self.engine.said.get("refuses_run"):
            return False
        addresses = dict(self.addresses)  # those of now: a graph keeps them
        self.engine.fake.enqueue(lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        assert self.device_memory is None or self.device_memory in self.engine.fake.memory
        self.runs += 1
        images = self._view("images", addresses)
        self.engine.fake.seen = images.copy()
        for name, answer in self.engine.fake.answers.items():
            self._view(name, addresses)[...] = answer
        for name, (mode, *_) in self.engine.tensors.items():
            if mode == "OUTPUT" and name not in self.engine.fake.answers:
                self._view(name, addresses)[...] = self.runs if name == "count" else 2 * images

    def _view(self, name: str, addresses: dict[str, int]) -> NDArray[Any]:
        dtype, shape = np.dtype(DTYPES[self.engine.tensors[name][2]]), self.shapes[name]
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(addresses[name])
        return np.frombuffer(memoryview(memory), dtype).reshape(shape)


def tensorrt(fake: Fake) -> Any:
    """A module whose Runtime takes the plans of `plan` and refuses all else."""

    class ILogger:
        pass

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: Any) -> Engine | None:
            fake.dla = getattr(self, "DLA_core", None)
            try:
                return Engine(fake, json.loads(bytes(data)))
            except ValueError:
                self.logger.log(SimpleNamespace(name="ERROR"), "1: [stdArchiveReader.cpp::x::31] Magic tag is wrong")
                return None

    return SimpleNamespace(ILogger=ILogger, Runtime=Runtime, __version__="8.5.3")
