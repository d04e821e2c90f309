"""Frames of a Jetson's video decoder that stay in its memory, for the detector to read there."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

from edgesparse.backends.cuda.nvmm import PITCH_LINEAR, Nvmm
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.closing import Closing
from edgesparse.errors import SourceError
from edgesparse.stream.pygobject import pull
from edgesparse.stream.sources.capture import OPEN_SECONDS
from edgesparse.stream.sources.gstreamer import failure, launched, rtsp_source

SINK = "appsink name=sink drop=true max-buffers=1 sync=false"
_LIBRARY = "libgstreamer-1.0.so.0"
_READ = 1
"""GST_MAP_READ"""


class _MapInfo(ctypes.Structure):
    """GstMapInfo"""

    _fields_: ClassVar[Any] = [
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("reserved", ctypes.c_void_p * 8),
    ]


class NvmmFrames(Closing):
    """The newest frames of a pipeline whose appsink `sink` gets NV12 in NVMM memory: an iterable of DeviceFrame, for
    `detect` and `submit` with `pixels="nv12"`. A context manager. Not yet run on a Jetson.

    A frame occupies one of the pipeline's few buffers until nothing refers to it. Raises BackendUnavailable without a
    Jetson's libraries, CameraUnavailable if the pipeline does not start or fails, SourceError for other surfaces.
    """

    def __init__(self, pipeline: str, seconds: float = OPEN_SECONDS) -> None:
        self._nvmm, self._seconds = Nvmm(), seconds
        self._gst, self._pipeline = launched(pipeline)
        self._library = ctypes.CDLL(_LIBRARY)
        self._library.gst_buffer_map.argtypes = [ctypes.c_void_p, ctypes.POINTER(_MapInfo), ctypes.c_int]
        self._library.gst_buffer_unmap.argtypes = [ctypes.c_void_p, ctypes.POINTER(_MapInfo)]

    @classmethod
    def of_rtsp(cls, url: str, transport: str = "tcp") -> NvmmFrames:
        """The frames of an RTSP stream of H.264 or H.265, decoded by nvv4l2decoder."""
        decoder = "nvv4l2decoder enable-max-performance=1"
        return cls(f"{rtsp_source(url, transport)} ! {decoder} ! {PITCH_LINEAR} ! {SINK}")

    def read(self) -> DeviceFrame | None:
        """Wait for the next frame; None at the end, or if none came in time."""
        sample, message = pull(self._gst, self._pipeline, self._seconds)
        if sample is None:
            if message is not None:
                raise failure(message)
            return None
        # PyGObject's hash of a buffer is its address; what it maps may be a copy, the library needs the original.
        buffer, mapped = sample.get_buffer(), _MapInfo()
        address = hash(buffer)
        if not self._library.gst_buffer_map(address, ctypes.byref(mapped), _READ):
            raise SourceError("a decoder's buffer cannot be mapped: needed video/x-raw(memory:NVMM)")
        return self._nvmm.frame(mapped.data, partial(_unmap, self._library, (sample, buffer), mapped))

    def __iter__(self) -> Iterator[DeviceFrame]:
        while (frame := self.read()) is not None:
            yield frame

    def close(self) -> None:
        """Stop the pipeline. Frames that are still referred to remain valid."""
        self._pipeline.set_state(self._gst.State.NULL)


def _unmap(library: Any, held: tuple[Any, Any], mapped: _MapInfo) -> None:
    library.gst_buffer_unmap(hash(held[1]), ctypes.byref(mapped))
