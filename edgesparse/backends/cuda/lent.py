"""Frames in GPU memory that a slot reads: whether the GPU can read them, when they are complete, and until when."""

from __future__ import annotations

import ctypes
from typing import Any

from edgesparse.backends.cuda import graph
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.errors import SourceError

_CONTEXT, _MEMORY_TYPE, _DEVICE = 1, 2, 9
"""Of CUpointer_attribute."""
_NO_TIMING = 2
"""CU_EVENT_DISABLE_TIMING"""


class Lent:
    """The frames in GPU memory of one batch at a time; `stream` of the slot reads them.

    The context must be current in each call but `reads` and `give_back`. Until the first frame it takes nothing.
    """

    def __init__(self, stream: Any) -> None:
        self.stream, self._event, self._frames = stream, ctypes.c_void_p(), list[DeviceFrame]()
        self._type, self._device = ctypes.c_uint(), ctypes.c_int()
        self._context, self._ours = ctypes.c_void_p(), 0
        self._attributes = (ctypes.c_int * 3)(_MEMORY_TYPE, _DEVICE, _CONTEXT)
        self._answers = (ctypes.c_void_p * 3)(*map(ctypes.addressof, (self._type, self._device, self._context)))

    def reads(self, frame: DeviceFrame) -> bool:
        """Whether a kernel here can read a frame, as far as CUDA knows without a current context. If it does not, ask
        `require`. Its address could end the process's use of the GPU, so CUDA is asked for each frame.
        """
        code = graph.libcuda().cuPointerGetAttributes(3, self._attributes, self._answers, frame.address)
        context = self._context.value  # memory from a pool belongs to none
        here = self._type.value and not self._device.value
        return bool(here and not code and (context is None or context == self._ours))

    def require(self, frame: DeviceFrame) -> None:
        """Raise SourceError if a kernel here cannot read a frame. An empty one is for others to refuse."""
        if not all(frame.shape):
            return
        self._ours = self._ours or self._current()
        code = graph.libcuda().cuPointerGetAttributes(3, self._attributes, self._answers, frame.address)
        graph.check(code, "where a frame is")
        if not self._type.value:
            raise SourceError(
                f"frame is at {frame.address:#x}, which CUDA does not know: needed memory that has not been freed"
            )
        if self._device.value:
            raise SourceError(
                f"frame is on GPU {self._device.value}: needed GPU 0, where the engine is: copy it there, with PyTorch "
                "by frame.to('cuda:0')"
            )
        if self._context.value not in (None, self._ours):
            raise SourceError(
                "frame belongs to another CUDA context: needed the GPU's primary one: with pycuda, import "
                "pycuda.autoprimaryctx in place of pycuda.autoinit"
            )

    @staticmethod
    def _current() -> int:
        current = ctypes.c_void_p()
        graph.check(graph.libcuda().cuCtxGetCurrent(ctypes.byref(current)), "the current context")
        return current.value or 0

    def take(self, frame: DeviceFrame) -> int:
        """Hold a frame until `give_back`; the stream waits for its producer, the CPU does not. Returns its address."""
        if frame.stream is not None and all(frame.stream != other.stream for other in self._frames):
            self._wait_for(frame.stream)
        self._frames.append(frame)
        return frame.address

    def _wait_for(self, stream: int) -> None:
        cuda = graph.libcuda()
        if not self._event:
            graph.check(cuda.cuEventCreate(ctypes.byref(self._event), _NO_TIMING), "an event")
        graph.check(cuda.cuEventRecord(self._event, stream), "the stream that writes a frame")
        graph.check(cuda.cuStreamWaitEvent(self.stream.handle, self._event, 0), "waiting for a frame")

    def give_back(self) -> None:
        """Release the frames of a batch that is done."""
        self._frames.clear()

    def close(self) -> None:
        """Release everything. Calling it again does nothing."""
        self._frames.clear()
        if self._event:
            graph.libcuda().cuEventDestroy_v2(self._event)
        self._event = ctypes.c_void_p()
