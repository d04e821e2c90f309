"""CUDA graphs through the driver's own library, for pycuda has none; and the library itself."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

from edgesparse.errors import BackendUnavailable, BuildError

LIBRARY = "libcuda.so.1"
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile does not end the capture."""
_MEMCPY = 1
"""CU_GRAPH_NODE_TYPE_MEMCPY"""
_POINTER, _REFERENCE, _UNSIGNED = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint


class _Copy(ctypes.Structure):
    """CUDA_MEMCPY3D"""

    _fields_: ClassVar[Any] = [
        (f"{side}{name}", kind)
        for side in ("src", "dst")
        for name, kind in (
            *((name, ctypes.c_size_t) for name in ("XInBytes", "Y", "Z", "LOD")),
            ("MemoryType", ctypes.c_int),
            *((name, ctypes.c_void_p) for name in ("Host", "Device", "Array", "Reserved")),
            *((name, ctypes.c_size_t) for name in ("Pitch", "Height")),
        )
    ] + [(name, ctypes.c_size_t) for name in ("WidthInBytes", "Height", "Depth")]


_FUNCTIONS: dict[str, list[Any]] = {
    "cuStreamBeginCapture_v2": [_POINTER, ctypes.c_int],
    "cuStreamEndCapture": [_POINTER, _REFERENCE],
    "cuGraphInstantiateWithFlags": [_REFERENCE, _POINTER, ctypes.c_ulonglong],
    "cuGraphLaunch": [_POINTER, _POINTER],
    "cuGraphExecDestroy": [_POINTER],
    "cuGraphDestroy": [_POINTER],
    "cuGraphGetNodes": [_POINTER, _REFERENCE, ctypes.POINTER(ctypes.c_size_t)],
    "cuGraphNodeGetType": [_POINTER, ctypes.POINTER(ctypes.c_int)],
    "cuGraphMemcpyNodeGetParams": [_POINTER, ctypes.POINTER(_Copy)],
    "cuGraphExecMemcpyNodeSetParams": [_POINTER, _POINTER, ctypes.POINTER(_Copy), _POINTER],
    "cuCtxGetCurrent": [_REFERENCE],
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

    def copy_to(self, address: int) -> Copy:
        """The copy in it whose destination on the GPU begins there. Raises LookupError."""
        cuda, count, kind = libcuda(), ctypes.c_size_t(), ctypes.c_int()
        check(cuda.cuGraphGetNodes(self._graph, None, ctypes.byref(count)), "a CUDA graph's nodes")
        nodes = (ctypes.c_void_p * count.value)()
        check(cuda.cuGraphGetNodes(self._graph, nodes, ctypes.byref(count)), "a CUDA graph's nodes")
        for node in nodes:
            said = _Copy()
            check(cuda.cuGraphNodeGetType(node, ctypes.byref(kind)), "a CUDA graph's node")
            if kind.value == _MEMCPY:
                check(cuda.cuGraphMemcpyNodeGetParams(node, ctypes.byref(said)), "a CUDA graph's copy")
                if said.dstDevice == address:
                    return Copy(self._made, ctypes.c_void_p(node), said)
        raise LookupError(f"no copy to {address:#x} in this graph")

    def close(self) -> None:
        """Give it back; calling it again does nothing."""
        if self._made:
            libcuda().cuGraphExecDestroy(self._made)
        if self._graph:
            libcuda().cuGraphDestroy(self._graph)
        self._made, self._graph = ctypes.c_void_p(), ctypes.c_void_p()


class Copy:
    """A copy to the GPU inside a graph, which may take other bytes from the next launch on."""

    def __init__(self, made: ctypes.c_void_p, node: ctypes.c_void_p, said: _Copy) -> None:
        self._made, self._node, self._said, self._context = made, node, said, ctypes.c_void_p()
        self._source = "srcHost" if said.srcHost else "srcDevice"
        self._taken = (getattr(said, self._source), int(said.WidthInBytes))
        check(libcuda().cuCtxGetCurrent(ctypes.byref(self._context)), "the context")
        self._set = libcuda().cuGraphExecMemcpyNodeSetParams

    def take(self, address: int, size: int) -> None:
        """Copy these bytes of page-locked memory. Launches that are on their way are not affected."""
        if self._taken == (address, size):
            return
        said, self._taken = self._said, (address, size)
        setattr(said, self._source, address)
        said.WidthInBytes = size
        code = self._set(self._made, self._node, ctypes.byref(said), self._context)
        if code:
            check(code, "a copy in a CUDA graph cannot be changed")


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
    raise BuildError(f"{what}: CUDA says: {said}")
