"""CUDA graphs through the driver's own library, for pycuda has none; and the library itself."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, ClassVar

from edgesparse.backends.cuda.gpu import cuda_says
from edgesparse.errors import BackendUnavailable, BuildError

LIBRARY = "libcuda.so.1"
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile does not end the capture."""
_KERNEL = 0
"""CU_GRAPH_NODE_TYPE_KERNEL"""
_POINTER, _REFERENCE, _UNSIGNED = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint


class KernelParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS: a function, grid and block, bytes of dynamic shared memory, where its arguments lie."""

    _fields_: ClassVar[Any] = [
        ("func", ctypes.c_void_p),
        *((f"{what}Dim{axis}", ctypes.c_uint) for what in ("grid", "block") for axis in "XYZ"),
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
    "cuModuleLoadData": [_REFERENCE, _POINTER],
    "cuModuleGetFunction": [_REFERENCE, _POINTER, ctypes.c_char_p],
    "cuLaunchKernel": [_POINTER, *[_UNSIGNED] * 7, _POINTER, ctypes.POINTER(ctypes.c_void_p), _POINTER],
    "cuGetErrorName": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
    "cuGetErrorString": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
}
"""All are in every driver from CUDA 11.4 (JetPack 5) to 13, under these names."""


class Graph:
    """What `record` enqueues on a stream, captured: nothing of it runs until `launch` runs it all.

    The context is current in each call. Raises BuildError where something in it cannot be captured; the stream can be
    used as before then.
    """

    def __init__(self, stream: int, record: Callable[[], None]) -> None:
        cuda = libcuda()
        self._graph, self._made = ctypes.c_void_p(), ctypes.c_void_p()
        self._stream, self._launch = ctypes.c_void_p(stream), cuda.cuGraphLaunch
        check(cuda.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL), "a CUDA graph cannot be begun")
        collecting = gc.isenabled()
        gc.disable()  # what it frees page-locked memory of would end the capture
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
        code = cuda.cuGraphInstantiateWithFlags(ctypes.byref(self._made), self._graph, 0)
        if code:
            self.close()
            check(code, "the CUDA graph cannot be made")

    def launch(self) -> None:
        """Enqueue it all on the stream that it was captured on; returns at once."""
        code = self._launch(self._made, self._stream)
        if code:
            check(code, "the CUDA graph cannot be launched")

    def kernel(self, said: KernelParams) -> Callable[[], None]:
        """What gives the one launch of that function in it the arguments that `said` points to then, from the next
        launch of the graph on; launches that are on their way are not affected. Raises BuildError where the driver does
        not tell which launch that is."""
        cuda, count, kind = libcuda(), ctypes.c_size_t(), ctypes.c_int()
        check(cuda.cuGraphGetNodes(self._graph, None, ctypes.byref(count)), "a CUDA graph's nodes")
        nodes = (ctypes.c_void_p * count.value)()
        check(cuda.cuGraphGetNodes(self._graph, nodes, ctypes.byref(count)), "a CUDA graph's nodes")
        for node in nodes:
            found = KernelParams()
            check(cuda.cuGraphNodeGetType(node, ctypes.byref(kind)), "a CUDA graph's node")
            if kind.value != _KERNEL or cuda.cuGraphKernelNodeGetParams(node, ctypes.byref(found)):
                continue  # what other libraries launched may have no parameters of this kind
            if found.func == said.func:
                return partial(self._renew, ctypes.c_void_p(node), ctypes.byref(said))
        raise BuildError("a CUDA graph's nodes: the driver does not tell which of them launches our kernel")

    def _renew(self, node: ctypes.c_void_p, said: Any) -> None:
        code = libcuda().cuGraphExecKernelNodeSetParams(self._made, node, said)
        if code:
            check(code, "a kernel in a CUDA graph takes no other arguments")

    def close(self) -> None:
        """Give it back; calling it again does nothing."""
        if self._made:
            libcuda().cuGraphExecDestroy(self._made)
        if self._graph:
            libcuda().cuGraphDestroy(self._graph)
        self._made, self._graph = ctypes.c_void_p(), ctypes.c_void_p()


@lru_cache(1)
def libcuda() -> Any:
    """CUDA's driver library with the functions above. Raises BackendUnavailable."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
        for name, arguments in _FUNCTIONS.items():
            function = getattr(cuda, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
    except (OSError, AttributeError) as error:
        raise BackendUnavailable(f"{LIBRARY} of CUDA 11.4 or newer is needed ({error}): update the driver") from None
    return cuda


def check(code: int, what: str) -> None:
    """Raises BuildError with the driver's own words unless `code` is success."""
    if code == 0:
        return
    cuda, name, text = libcuda(), ctypes.c_char_p(), ctypes.c_char_p()
    cuda.cuGetErrorName(code, ctypes.byref(name))
    cuda.cuGetErrorString(code, ctypes.byref(text))
    said = " ".join(part.value.decode() for part in (name, text) if part.value) or f"error {code}"
    raise BuildError(cuda_says(what, said))
