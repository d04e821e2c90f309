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

    The context must be current in each call but `give_back`. Until the first frame it takes nothing.
    """

    def __init__(self, stream: Any) -> None:
        self.stream, self._event, self._frames = stream, ctypes.c_void_p(), list[DeviceFrame]()
        self._type, self._device = ctypes.c_uint(), ctypes.c_int()
        self._context, self._ours = ctypes.c_void_p(), ctypes.c_void_p()
        self._attributes = (ctypes.c_int * 3)(_MEMORY_TYPE, _DEVICE, _CONTEXT)
        self._answers = (ctypes.c_void_p * 3)(*map(ctypes.addressof, (self._type, self._device, self._context)))

    def described(self, array: object) -> DeviceFrame:
        """Describe an array in GPU memory. Raises SourceError if a kernel here cannot read it: the address would end
        the process's use of the GPU. So CUDA is asked for each frame.
        """
        if isinstance(array, DeviceFrame):
            return array
        frame = DeviceFrame.of(array)
        if all(frame.shape):
            self._require_here(frame)
        return frame

    def _require_here(self, frame: DeviceFrame) -> None:
        cuda = graph.libcuda()
        graph.check(cuda.cuPointerGetAttributes(3, self._attributes, self._answers, frame.address), "where a frame is")
        if not self._type.value:
            raise SourceError(
                f"frame is at {frame.address:#x}, which CUDA does not know: needed memory that has not been freed"
            )
        if self._device.value:
            raise SourceError(
                f"frame is on GPU {self._device.value}: needed GPU 0, where the engine is: copy it there, with PyTorch "
                "by frame.to('cuda:0')"
            )
        if not self._ours:
            graph.check(cuda.cuCtxGetCurrent(ctypes.byref(self._ours)), "the current context")
        # Memory from a pool belongs to no context.
        if self._context and self._context.value != self._ours.value:
            raise SourceError(
                "frame belongs to another CUDA context: needed the GPU's primary one: with pycuda, import "
                "pycuda.autoprimaryctx in place of pycuda.autoinit"
            )

    def take(self, frame: DeviceFrame) -> int:
        """Hold a frame until `give_back`; the stream waits for its producer, the CPU does not. Returns its address."""
        if frame.stream is not None and all(frame.stream != other.stream for other in self._frames):
            cuda = graph.libcuda()
            if not self._event:
                graph.check(cuda.cuEventCreate(ctypes.byref(self._event), _NO_TIMING), "an event")
            graph.check(cuda.cuEventRecord(self._event, frame.stream), "the stream that writes a frame")
            graph.check(cuda.cuStreamWaitEvent(self.stream.handle, self._event, 0), "waiting for a frame")
        self._frames.append(frame)
        return frame.address

    def give_back(self) -> None:
        """Release the frames of a batch that is done."""
        self._frames.clear()

    def close(self) -> None:
        """Release everything. Calling it again does nothing."""
        self._frames.clear()
        if self._event:
            graph.libcuda().cuEventDestroy_v2(self._event)
        self._event = ctypes.c_void_p()
