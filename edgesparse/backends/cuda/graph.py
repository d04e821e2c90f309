"""CUDA graphs through the driver's library, as pycuda has none; and the library itself."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, ClassVar

from edgesparse.backends.cuda.gpu import cuda_error
from edgesparse.errors import BackendUnavailable, BuildError

LIBRARY = "libcuda.so.1"
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls in other threads do not end the capture."""
_KERNEL = 0
"""CU_GRAPH_NODE_TYPE_KERNEL"""
_POINTER, _REFERENCE, _UNSIGNED = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint


class KernelParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS: function, grid, block, bytes of dynamic shared memory, addresses of the arguments."""

    _fields_: ClassVar[Any] = [
        ("func", ctypes.c_void_p),
        *((f"{part}Dim{axis}", ctypes.c_uint) for part in ("grid", "block") for axis in "XYZ"),
        ("sharedMemBytes", ctypes.c_uint),
        ("kernelParams", _REFERENCE),
        ("extra", _REFERENCE),
    ]


_FUNCTIONS: dict[str, list[Any]] = {
    "cuStreamBeginCapture_v2": [_POINTER, ctypes.c_int],
    "cuStreamEndCapture": [_POINTER, _REFERENCE],
    "cuGraphInstantiateWithFlags": [_REFERENCE, _POINTER, ctypes.c_ulonglong],
    "cuGraphLaunch": [_POINTER, _POINTER],
    "cuGraphExecDestroy": [_POINTER],
    "cuGraphDestroy": [_POINTER],
    "cuGraphGetNodes": [_POINTER, _REFERENCE, ctypes.POINTER(ctypes.c_size_t)],
    "cuGraphNodeGetType": [_POINTER, ctypes.POINTER(ctypes.c_int)],
    "cuGraphKernelNodeGetParams": [_POINTER, ctypes.POINTER(KernelParams)],
    "cuGraphExecKernelNodeSetParams": [_POINTER, _POINTER, ctypes.POINTER(KernelParams)],
    "cuCtxGetCurrent": [_REFERENCE],
    "cuEventCreate": [_REFERENCE, _UNSIGNED],
    "cuEventDestroy_v2": [_POINTER],
    "cuEventRecord": [_POINTER, _POINTER],
    "cuStreamWaitEvent": [_POINTER, _POINTER, _UNSIGNED],
    "cuPointerGetAttributes": [_UNSIGNED, ctypes.POINTER(ctypes.c_int), _REFERENCE, ctypes.c_ulonglong],
    "cuModuleLoadData": [_REFERENCE, _POINTER],
    "cuModuleGetFunction": [_REFERENCE, _POINTER, ctypes.c_char_p],
    "cuLaunchKernel": [_POINTER, *[_UNSIGNED] * 7, _POINTER, ctypes.POINTER(ctypes.c_void_p), _POINTER],
    "cuGetErrorName": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
    "cuGetErrorString": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
}
"""Every driver from CUDA 11.4 (JetPack 5) to 13 has them under these names."""
_PER_FRAME = (
    "cuGraphExecKernelNodeSetParams",
    "cuGraphLaunch",
    "cuPointerGetAttributes",
    "cuEventRecord",
    "cuStreamWaitEvent",
)
"""These keep Python's lock: they take microseconds, and whoever gives it away may wait 5 ms for another thread."""


class Graph:
    """The work that `record` enqueues on a stream, captured. None of it runs before `launch` runs all of it.

    The context must be current in each call. Raises BuildError if something cannot be captured; the stream stays
    usable.
    """

    def __init__(self, stream: int, record: Callable[[], None]) -> None:
        cuda = libcuda()
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._stream, self._launch = ctypes.c_void_p(stream), cuda.cuGraphLaunch
        check(cuda.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL), "a CUDA graph cannot be started")
        collecting = gc.isenabled()
        gc.disable()  # freeing page-locked memory would end the capture
        try:
            record()
        except BaseException:
            cuda.cuStreamEndCapture(stream, ctypes.byref(self._graph))
            self.close()
            raise
        finally:
            if collecting:
                gc.enable()
        check(cuda.cuStreamEndCapture(stream, ctypes.byref(self._graph)), "this cannot be captured in a CUDA graph")
        code = cuda.cuGraphInstantiateWithFlags(ctypes.byref(self._executable), self._graph, 0)
        if code:
            self.close()
            check(code, "the CUDA graph cannot be instantiated")

    def launch(self) -> None:
        """Enqueue all of it on the stream that it was captured on; returns immediately."""
        code = self._launch(self._executable, self._stream)
        if code:
            check(code, "the CUDA graph cannot be launched")

    def kernel_update(self, params: KernelParams) -> Callable[[], None]:
        """A function that updates the arguments of the one launch of this kernel in the graph.

        It reads the arguments that `params` points to at that time. They apply to later launches of the graph, not to
        those in flight. Raises BuildError if the driver does not reveal which node launches the kernel.
        """
        cuda, count, kind = libcuda(), ctypes.c_size_t(), ctypes.c_int()
        check(cuda.cuGraphGetNodes(self._graph, None, ctypes.byref(count)), "a CUDA graph's nodes")
        nodes = (ctypes.c_void_p * count.value)()
        check(cuda.cuGraphGetNodes(self._graph, nodes, ctypes.byref(count)), "a CUDA graph's nodes")
        for node in nodes:
            launched = KernelParams()
            check(cuda.cuGraphNodeGetType(node, ctypes.byref(kind)), "a CUDA graph's node")
            if kind.value != _KERNEL or cuda.cuGraphKernelNodeGetParams(node, ctypes.byref(launched)):
                continue  # launches by other libraries may have no such parameters
            if launched.func == params.func:
                update = cuda.cuGraphExecKernelNodeSetParams
                return partial(_update, partial(update, self._executable, ctypes.c_void_p(node), ctypes.byref(params)))
        raise BuildError("a CUDA graph's nodes: the driver does not reveal which of them launches our kernel")

    def close(self) -> None:
        """Free it. Calling it again does nothing."""
        if self._executable:
            libcuda().cuGraphExecDestroy(self._executable)
        if self._graph:
            libcuda().cuGraphDestroy(self._graph)
        self._executable, self._graph = ctypes.c_void_p(), ctypes.c_void_p()


def _update(update: Callable[[], int]) -> None:
    code = update()
    if code:
        check(code, "the arguments of a kernel in a CUDA graph cannot be updated")


@lru_cache(1)
def libcuda() -> Any:
    """CUDA's driver library with the functions above. Raises BackendUnavailable."""
    try:
        cuda, locked = ctypes.CDLL(LIBRARY), ctypes.PyDLL(LIBRARY)
        for name, arguments in _FUNCTIONS.items():
            function = getattr(locked if name in _PER_FRAME else cuda, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
            setattr(cuda, name, function)
    except (OSError, AttributeError) as error:
        raise BackendUnavailable(f"{LIBRARY} of CUDA 11.4 or newer is needed ({error}): update the driver") from None
    return cuda


def check(code: int, action: str) -> None:
    """Raise BuildError with the driver's message unless `code` is success."""
    if code == 0:
        return
    cuda, name, text = libcuda(), ctypes.c_char_p(), ctypes.c_char_p()
    cuda.cuGetErrorName(code, ctypes.byref(name))
    cuda.cuGetErrorString(code, ctypes.byref(text))
    message = " ".join(part.value.decode() for part in (name, text) if part.value) or f"error {code}"
    raise BuildError(cuda_error(action, message))
