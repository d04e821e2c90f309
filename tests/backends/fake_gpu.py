"""pycuda, the driver's library and TensorRT's runtime as far as a Runner calls them, on the CPU's memory.

Addresses are real ones, so what is copied to a wrong place is seen; what is freed twice, used after it was freed, or
called without the context being current in the thread raises, as CUDA would. An enqueue in a capture runs only when
its graph is launched.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.tensorrt_runner import DTYPES

Operation = Callable[[], None]


class Error(Exception):
    pass


class OutOfMemory(Error):
    pass


class Fake:
    """The state of one GPU: what is allocated, what is being captured; `driver` and `library` are its two faces."""

    def __init__(self, integrated: bool = False, free: int = 1 << 30) -> None:
        self.integrated, self.room, self.count = integrated, free, 1
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.hosts = self.streams = self.graphs = self.launches = self.copies = self.waits = 0
        self.threads = threading.local()
        self.captured: list[Operation] | None = None
        self.uncapturable = False
        self.broken = ""
        self.dla: int | None = None
        self.made: dict[int, list[Operation]] = {}
        self.driver, self.library = _driver(self), _Library(self)

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

    def htod(memory: Allocation, host: NDArray[Any], stream: Stream) -> None:
        assert int(memory) in fake.memory
        fake.enqueue(lambda: copy(int(memory), host.ctypes.data, host.nbytes))

    def dtoh(host: NDArray[Any], memory: Allocation, stream: Stream) -> None:
        assert int(memory) in fake.memory
        fake.enqueue(lambda: copy(host.ctypes.data, int(memory), host.nbytes))

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
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
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
        return self._keep(made, self.fake.made[graph.value or 0])

    def _keep(self, reference: Any, operations: list[Operation]) -> int:
        self.fake.graphs += 1
        number = max(self.fake.made, default=0) + 1
        self.fake.made[number] = operations
        reference._obj.value = number
        return 0

    def cuGraphLaunch(self, made: ctypes.c_void_p, stream: Any) -> int:
        self.fake.require()
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
        text._obj.value = b"something went wrong"
        return 0


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


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses, self.runs = engine, dict[str, int](), 0
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
        self.engine.fake.enqueue(self._run)
        return True

    def _run(self) -> None:
        self.runs += 1
        images = self._view("images")
        for name, (mode, *_) in self.engine.tensors.items():
            if mode == "OUTPUT":
                self._view(name)[...] = self.runs if name == "count" else 2 * images

    def _view(self, name: str) -> NDArray[Any]:
        dtype, shape = np.dtype(DTYPES[self.engine.tensors[name][2]]), self.shapes[name]
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


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
