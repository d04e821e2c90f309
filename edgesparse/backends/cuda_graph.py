"""CUDA graphs through the driver's own library, for pycuda has none."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from edgesparse.errors import BackendUnavailable, BuildError

LIBRARY = "libcuda.so.1"
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile does not end the capture."""
_POINTER, _REFERENCE = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_FUNCTIONS: dict[str, list[Any]] = {
    "cuStreamBeginCapture_v2": [_POINTER, ctypes.c_int],
    "cuStreamEndCapture": [_POINTER, _REFERENCE],
    "cuGraphInstantiateWithFlags": [_REFERENCE, _POINTER, ctypes.c_ulonglong],
    "cuGraphLaunch": [_POINTER, _POINTER],
    "cuGraphExecDestroy": [_POINTER],
    "cuGraphDestroy": [_POINTER],
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
        cuda = library()
        graph = ctypes.c_void_p()
        self._made, self._stream, self._launch = ctypes.c_void_p(), ctypes.c_void_p(stream), cuda.cuGraphLaunch
        check(cuda.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL), "a CUDA graph cannot be begun")
        try:
            record()
        except BaseException:
            cuda.cuStreamEndCapture(stream, ctypes.byref(graph))
            if graph:
                cuda.cuGraphDestroy(graph)
            raise
        check(cuda.cuStreamEndCapture(stream, ctypes.byref(graph)), "this cannot be captured in a CUDA graph")
        try:
            code = cuda.cuGraphInstantiateWithFlags(ctypes.byref(self._made), graph, 0)
            check(code, "the CUDA graph cannot be made")
        finally:
            cuda.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Enqueue it all on the stream that it was captured on; returns at once."""
        code = self._launch(self._made, self._stream)
        if code:
            check(code, "the CUDA graph cannot be launched")

    def close(self) -> None:
        """Give it back; calling it again does nothing."""
        if self._made:
            library().cuGraphExecDestroy(self._made)
            self._made = ctypes.c_void_p()


@lru_cache(1)
def library() -> Any:
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
    cuda, name, text = library(), ctypes.c_char_p(), ctypes.c_char_p()
    cuda.cuGetErrorName(code, ctypes.byref(name))
    cuda.cuGetErrorString(code, ctypes.byref(text))
    said = " ".join(part.value.decode() for part in (name, text) if part.value) or f"error {code}"
    raise BuildError(f"{what}: CUDA says: {said}")
