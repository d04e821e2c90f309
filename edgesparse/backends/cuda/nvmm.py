"""Frames in the memory of a Jetson's video decoder (NVMM), which CUDA reads there, mapped through EGL.

A buffer of GStreamer in NVMM memory holds an NvBufSurface. The structures are those of nvbufsurface.h (Jetson
Multimedia API of JetPack 5 and 6) and cudaEGL.h (CUDA 11.4 to 13). Written from these; not yet run on a Jetson.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar

from edgesparse.backends.cuda import graph
from edgesparse.backends.cuda.gpu import gpu
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.errors import BackendUnavailable, SourceError

LIBRARY = "libnvbufsurface.so.1.0.0"
PITCH_LINEAR = "nvvidconv bl-output=false output-buffers=8 ! video/x-raw(memory:NVMM),format=NV12"
"""What gives surfaces whose rows follow each other: the decoder's own are block-linear. The Jetson's image compositor
(VIC) writes them, neither the CPU nor the GPU. Of its four usual buffers all may be in flight."""
_SURFACE_ARRAY, _PITCH, _PITCH_FRAME = 4, 0, 1
"""NVBUF_MEM_SURFACE_ARRAY, NVBUF_LAYOUT_PITCH, CU_EGL_FRAME_TYPE_PITCH"""
_NV12 = (6, 33, 36)
"""NVBUF_COLOR_FORMAT_NV12, _NV12_709 and _NV12_2020: 8 bits, limited range."""
_U32, _INT, _POINTER = ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p


class Planes(ctypes.Structure):
    """NvBufSurfacePlaneParams"""

    _fields_: ClassVar[Any] = [
        ("count", _U32),
        *((name, _U32 * 4) for name in ("width", "height", "pitch", "offset", "size", "bytes_per_pixel")),
        ("reserved", _POINTER * 16),
    ]


class Params(ctypes.Structure):
    """NvBufSurfaceParams"""

    _fields_: ClassVar[Any] = [
        *((name, _U32) for name in ("width", "height", "pitch")),
        *((name, _INT) for name in ("color_format", "layout")),
        ("descriptor", ctypes.c_uint64),
        ("size", _U32),
        ("data", _POINTER),
        ("planes", Planes),
        ("mapped", _POINTER * 4),
        ("egl_image", _POINTER),
        ("reserved_of_mapped", _POINTER * 4),
        ("extended", _POINTER),
        ("reserved", _POINTER * 3),
    ]


class Surface(ctypes.Structure):
    """NvBufSurface"""

    _fields_: ClassVar[Any] = [
        *((name, _U32) for name in ("gpu", "batch", "filled")),
        ("contiguous", ctypes.c_bool),
        ("memory", _INT),
        ("list", ctypes.POINTER(Params)),
        ("reserved", _POINTER * 4),
    ]


class EglFrame(ctypes.Structure):
    """CUeglFrame"""

    _fields_: ClassVar[Any] = [
        ("planes", _POINTER * 3),
        *((name, _U32) for name in ("width", "height", "depth", "pitch", "count", "channels")),
        *((name, _INT) for name in ("kind", "color_format", "format")),
    ]


class _Mapped:
    """Keeps a surface mapped."""


class Nvmm:
    """Maps surfaces for CUDA. Raises BackendUnavailable without CUDA or without the Jetson's library."""

    def __init__(self) -> None:
        self._gpu, self._cuda = gpu(), graph.libcuda()
        try:
            self._surfaces = ctypes.CDLL(LIBRARY)
            for name in ("NvBufSurfaceMapEglImage", "NvBufSurfaceUnMapEglImage"):
                getattr(self._surfaces, name).argtypes = [_POINTER, _INT]
            self._cuda.cuGraphicsEGLRegisterImage.argtypes = [ctypes.POINTER(_POINTER), _POINTER, ctypes.c_uint]
            self._cuda.cuGraphicsResourceGetMappedEglFrame.argtypes = [
                ctypes.POINTER(EglFrame),
                _POINTER,
                *[ctypes.c_uint] * 2,
            ]
            self._cuda.cuGraphicsUnregisterResource.argtypes = [_POINTER]
        except (OSError, AttributeError) as error:
            raise BackendUnavailable(
                f"frames in NVMM memory need a Jetson, with JetPack's package nvidia-l4t-multimedia ({error})"
            ) from None

    def frame(self, surface: int, release: Callable[[], object]) -> DeviceFrame:
        """Return the frame in the NvBufSurface at this address, [H * 3 / 2, W] in NV12.

        When nothing refers to it any more, and a slot does until its batch is done, it is unmapped and `release` is
        called, in whichever thread that is. If this raises, that has happened: SourceError for a surface that the
        kernels cannot read, BuildError if CUDA refuses it.
        """
        with ExitStack() as undo:
            undo.callback(release)
            params = _params(Surface.from_address(surface))
            if self._surfaces.NvBufSurfaceMapEglImage(surface, 0) or not params.egl_image:
                raise SourceError("a decoder's frame cannot be mapped through EGL: needed a display or EGL's device")
            undo.callback(self._surfaces.NvBufSurfaceUnMapEglImage, surface, 0)
            mapped, owner = self._registered(params.egl_image, undo), _Mapped()
            if mapped.kind != _PITCH_FRAME or mapped.count < 2:
                raise SourceError(f"a decoder's frame is block-linear for CUDA: {_NEEDED}")
            weakref.finalize(owner, undo.pop_all().close)
        height, width, (rows, colors) = params.planes.height[0], params.planes.width[0], mapped.planes[:2]
        return DeviceFrame(owner, rows, (height * 3 // 2, width), (mapped.pitch, 1), chroma=colors - rows)

    def _registered(self, image: int, undo: ExitStack) -> EglFrame:
        cuda, resource, mapped = self._cuda, ctypes.c_void_p(), EglFrame()
        with self._gpu:
            code = cuda.cuGraphicsEGLRegisterImage(ctypes.byref(resource), image, 0)
            graph.check(code, "registering a decoder's frame")
            undo.callback(self._unregister, resource)
            code = cuda.cuGraphicsResourceGetMappedEglFrame(ctypes.byref(mapped), resource, 0, 0)
            graph.check(code, "mapping a decoder's frame")
        return mapped

    def _unregister(self, resource: ctypes.c_void_p) -> None:
        with self._gpu:
            self._cuda.cuGraphicsUnregisterResource(resource)


_NEEDED = f"needed NV12 of 8 bits and limited range, pitch-linear: end the pipeline with '{PITCH_LINEAR}'"


def _params(surface: Surface) -> Params:
    """The parameters of a surface's first buffer. Raises SourceError if the kernels cannot read it."""
    if surface.memory != _SURFACE_ARRAY or not surface.filled or not surface.list:
        raise SourceError(f"a decoder's frame is of memory type {surface.memory}, {surface.filled} filled: {_NEEDED}")
    params: Params = surface.list[0]
    planes = params.planes
    if params.color_format not in _NV12 or params.layout != _PITCH or planes.count != 2:
        faults = f"color format {params.color_format}, layout {params.layout}, {planes.count} planes"
        raise SourceError(f"a decoder's frame has {faults}: {_NEEDED}")
    if planes.pitch[0] != planes.pitch[1]:
        raise SourceError(f"a decoder's frame has rows of {planes.pitch[0]} and {planes.pitch[1]} bytes: {_NEEDED}")
    return params
