"""The parts of pycuda and the driver's library that a Runner calls, in CPU memory.

Kernels run too: the CPU's compiler builds the same sources (host_kernels.cpp). Addresses are real, so copies to a wrong
address are detected. Freeing twice, use after free, and calls without a current context raise, as they do in CUDA. Work
enqueued in a capture runs when its graph is launched.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_kernels import KERNELS, arguments_of, host_kernels
from numpy.typing import NDArray

Operation = Callable[[], None]
CONTEXT = 33


@dataclass
class Launched:
    """A kernel launch, which a graph can return and update. `arguments`: as bytes."""

    fake: Fake
    function: int
    grid: list[int]
    arguments: list[bytes]

    def __call__(self) -> None:
        name, copies = KERNELS[self.function - 1], [ctypes.create_string_buffer(a, len(a)) for a in self.arguments]
        pointers = (ctypes.c_void_p * len(copies))(*map(ctypes.addressof, copies))
        assert host_kernels().launch(name, (ctypes.c_int * 3)(*self.grid), pointers) == 0
        self.fake.kernels.append(name.decode())


class Error(Exception):
    pass


class OutOfMemory(Error):
    pass


class Fake:
    """The state of one GPU: allocations, captures. `driver` and `libcuda` are its two interfaces."""

    def __init__(self, integrated: bool = False, free: int = 1 << 30) -> None:
        self.integrated, self.room, self.count = integrated, free, 1
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.hosts = self.streams = self.graphs = self.launches = self.copies = self.renewed = 0
        self.threads = threading.local()
        self.pointers: dict[int, tuple[int, int, int]] = {}  # of others: type of memory, device, context
        self.producers: dict[int, list[Operation]] = {}  # what others enqueued, by stream: it runs when waited for
        self.events: dict[int, list[Operation]] = {}
        self.waits: list[int] = []
        self.captured: list[Operation] | None = None
        self.uncapturable = self.opaque = False
        self.broken, self.reported = "", False  # once the error is reported, every launch fails
        self.dla: int | None = None
        self.created: dict[int, list[Operation]] = {}
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
    """Page-locked memory, freed with its last array; freeing it needs a current context."""

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
        assert flags == 1, "a stream that waits for the default one cannot be captured while other threads work"
        self.fake, self.handle = fake, 77
        fake.streams += 1

    def synchronize(self) -> None:
        self.fake.require()
        if self.fake.broken:
            self.fake.reported = True
            raise Error(f"cuStreamSynchronize failed: {self.fake.broken}")

    def __del__(self) -> None:
        self.fake.streams -= 1


class Event:
    def __init__(self, fake: Fake, flags: int) -> None:
        fake.require()
        self.fake, self.timed = fake, not flags & 2

    def record(self, stream: Stream) -> Event:
        self.at = self.fake.launches
        return self

    def synchronize(self) -> Event:
        self.fake.require()
        if self.fake.broken:
            self.fake.reported = True
            raise Error(f"cuEventSynchronize failed: {self.fake.broken}")
        return self

    def time_till(self, end: Event) -> float:
        assert self.timed and end.timed, "events without times"
        return 0.25 * (end.at - self.at)


class Memcpy2D:
    """A copy of rows to GPU memory; its attributes are pycuda's."""

    def __init__(self, fake: Fake) -> None:
        self.fake, self.src_x_in_bytes, self.dst_x_in_bytes = fake, 0, 0
        self.src_pitch = self.dst_pitch = self.width_in_bytes = self.height = 0

    def set_src_host(self, host: NDArray[Any]) -> None:
        self.source = host

    def set_dst_device(self, memory: int) -> None:
        self.to = memory

    def __call__(self, stream: Stream) -> None:
        end = (self.height - 1) * self.dst_pitch + self.dst_x_in_bytes + self.width_in_bytes
        assert self.dst_x_in_bytes + self.width_in_bytes <= self.dst_pitch
        assert end <= self.fake.memory[self.to].nbytes and end <= self.source.nbytes
        self.fake.enqueue(self._rows)

    def _rows(self) -> None:
        self.fake.copies += 1
        for row in range(self.height):
            to, source = self.to + self.dst_x_in_bytes, self.source.ctypes.data + self.src_x_in_bytes
            ctypes.memmove(to + row * self.dst_pitch, source + row * self.src_pitch, self.width_in_bytes)


def _device(fake: Fake) -> Any:
    """The class pycuda.driver.Device, with one device."""

    def push() -> None:
        fake.threads.depth = getattr(fake.threads, "depth", 0) + 1

    def pop() -> None:
        fake.threads.depth -= 1

    device = SimpleNamespace(
        get_attribute=lambda name: int(fake.integrated and name == "integrated"),
        name=lambda: "Fake GPU",
        total_memory=lambda: 1 << 33,
        compute_capability=lambda: (8, 7),
        retain_primary_context=lambda: SimpleNamespace(push=push, pop=pop, detach=lambda: None),
    )
    return type("Device", (), {"count": lambda: fake.count, "__new__": lambda cls, index: device})


def _driver(fake: Fake) -> SimpleNamespace:
    """The module pycuda.driver."""

    def copy(to: int, source: int, size: int) -> None:
        fake.copies += 1
        ctypes.memmove(to, source, size)

    def htod(memory: Any, host: NDArray[Any], stream: Stream | None = None) -> None:
        assert int(memory) in fake.memory and host.nbytes <= fake.memory[int(memory)].nbytes
        fake.enqueue(partial(copy, int(memory), host.ctypes.data, host.nbytes))

    def dtoh(host: NDArray[Any], memory: Any, stream: Stream) -> None:
        assert int(memory) in fake.memory
        fake.enqueue(partial(copy, host.ctypes.data, int(memory), host.nbytes))

    return SimpleNamespace(
        Error=Error,
        MemoryError=OutOfMemory,
        init=lambda: None,
        Device=_device(fake),
        device_attribute=SimpleNamespace(INTEGRATED="integrated"),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2, WRITECOMBINED=4),
        mem_get_info=lambda: (fake.require(), (fake.room, 1 << 33))[1],
        mem_alloc=lambda size: Allocation(fake, size),
        pagelocked_empty=lambda size, dtype, mem_flags: np.asarray(Host(fake, size)),
        Stream=lambda flags: Stream(fake, flags),
        Event=lambda flags=0: Event(fake, flags),
        event_flags=SimpleNamespace(DISABLE_TIMING=2),
        memcpy_htod_async=htod,
        memcpy_dtoh_async=dtoh,
        Memcpy2D=lambda: Memcpy2D(fake),
    )


class _Library:
    """The functions of libcuda that graphs need, with ctypes pointers like the real ones."""

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

    def cuGraphInstantiateWithFlags(self, created: Any, graph: ctypes.c_void_p, flags: int) -> int:
        operations = self.fake.created[graph.value or 0]
        return self._keep(created, [replace(o) if isinstance(o, Launched) else o for o in operations])

    def cuGraphGetNodes(self, graph: ctypes.c_void_p, nodes: Any, count: Any) -> int:
        operations = self.fake.created[graph.value or 0]
        count._obj.value = len(operations)
        for i in range(len(operations) if nodes is not None else 0):
            nodes[i] = 1000 * (graph.value or 0) + i
        return 0

    def _node(self, node: int) -> Operation:
        return self.fake.created[node // 1000][node % 1000]

    def cuGraphNodeGetType(self, node: int, kind: Any) -> int:
        kind._obj.value = 0 if isinstance(self._node(node), Launched) else 2
        return 0

    def cuGraphKernelNodeGetParams(self, node: int, params: Any) -> int:
        launched = self._node(node)
        assert isinstance(launched, Launched)
        params._obj.func = launched.function
        return 1 if self.fake.opaque else 0

    def cuGraphExecKernelNodeSetParams(self, graph: Any, node: ctypes.c_void_p, params: Any) -> int:
        launched, new = self.fake.created[graph.value][(node.value or 0) % 1000], params._obj
        assert isinstance(launched, Launched) and new.func == launched.function
        assert launched.grid == [new.gridDimX, new.gridDimY, new.gridDimZ]
        launched.arguments = arguments_of(launched.function, new.kernelParams)
        self.fake.renewed += 1
        return 0

    def cuCtxGetCurrent(self, context: Any) -> int:
        self.fake.require()
        context._obj.value = CONTEXT
        return 0

    def cuPointerGetAttributes(self, count: int, attributes: Any, answers: Any, address: int) -> int:
        memory, device, context = self.fake.pointers.get(address, (0, -2, 0))
        for i in range(count):
            kind, value = {1: (ctypes.c_void_p, context), 2: (ctypes.c_uint, memory), 9: (ctypes.c_int, device)}[
                attributes[i]
            ]
            kind.from_address(answers[i]).value = value  # type: ignore[attr-defined]
        return 0

    def cuEventCreate(self, event: Any, flags: int) -> int:
        self.fake.require()
        assert flags == 2, "an event with timing costs more"
        event._obj.value = 1 + len(self.fake.events)
        self.fake.events[event._obj.value] = []
        return 0

    def cuEventRecord(self, event: ctypes.c_void_p, stream: int) -> int:
        self.fake.require()
        assert self.fake.captured is None
        self.fake.events[event.value or 0] = self.fake.producers.pop(stream, [])
        self.fake.waits.append(stream)
        return 0

    def cuStreamWaitEvent(self, stream: int, event: ctypes.c_void_p, flags: int) -> int:
        assert stream == 77 and flags == 0
        for operation in self.fake.events[event.value or 0]:
            operation()
        return 0

    def cuEventDestroy_v2(self, event: ctypes.c_void_p) -> int:
        del self.fake.events[event.value or 0]
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

    def cuLaunchKernel(self, function: Any, *launch: Any) -> int:
        *grid, _, _, _, _, stream, arguments, _ = launch
        assert stream == 77
        number = function.value or 0
        self.fake.enqueue(Launched(self.fake, number, list(map(int, grid)), arguments_of(number, arguments)))
        return 0

    def _keep(self, reference: Any, operations: list[Operation]) -> int:
        self.fake.graphs += 1
        number = max(self.fake.created, default=0) + 1
        self.fake.created[number] = operations
        reference._obj.value = number
        return 0

    def cuGraphLaunch(self, created: ctypes.c_void_p, stream: Any) -> int:
        self.fake.require()
        if self.fake.reported:
            return 700
        if created.value not in self.fake.created:
            return 1
        self.fake.launches += 1
        for operation in self.fake.created[created.value]:
            operation()
        return 0

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        self.fake.graphs -= 1
        del self.fake.created[graph.value or 0]
        return 0

    cuGraphExecDestroy = cuGraphDestroy

    def cuGetErrorName(self, code: int, name: Any) -> int:
        name._obj.value = f"CUDA_ERROR_{code}".encode()
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:
        text._obj.value = self.fake.broken.encode() or b"something went wrong"
        return 0
