"""Frames in GPU memory, as PyTorch, CuPy, Numba and pycuda describe their arrays."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgesparse.errors import SourceError

DEFAULT_STREAM = 1
"""CU_STREAM_LEGACY: work on it comes after that on all streams that do not opt out."""
_BYTES = np.dtype(np.uint8)


@dataclass(slots=True)
class DeviceFrame:
    """A frame in GPU memory, which the kernels read there.

    `owner`: keeps the memory valid, and is released when the batch is done. `address`: of the first byte on the GPU.
    `shape`, `dtype` and `strides` (in bytes; None: no gaps) are NumPy's. `stream`: CUDA's handle of the stream that
    writes it, 1 the default stream, 2 that of the thread; None: it is complete. `chroma`: bytes from the first row to
    the colors of NV12, whose pitch is that of the rows; 0: they follow the rows.
    """

    owner: object
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    dtype: np.dtype[Any] = _BYTES
    stream: int | None = None
    chroma: int = 0

    @classmethod
    def of(cls, array: object) -> DeviceFrame:
        """Describe an array that has `__cuda_array_interface__`
        (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html).

        Before version 3 it names no stream: the default one then, where PyTorch, of version 2, works unless told
        otherwise. Raises SourceError for anything else, and for an incomplete description.
        """
        interface: Any = getattr(array, "__cuda_array_interface__", None)
        if interface is None:
            hint = ": pass its .numpy()" if hasattr(array, "numpy") else ""
            raise SourceError(
                f"frame is a {type(array).__module__}.{type(array).__name__}: needed an array of NumPy, or one in GPU "
                f"memory with __cuda_array_interface__{hint}"
            )
        try:
            stream = interface.get("stream") if interface["version"] >= 3 else DEFAULT_STREAM
            shape, strides, kind = tuple(interface["shape"]), interface.get("strides"), interface["typestr"]
            dtype = _BYTES if kind == "|u1" else np.dtype(kind)  # no type is made for each frame
            address, stream = int(interface["data"][0] or 0), None if stream is None else int(stream)
            return cls(array, address, shape, strides and tuple(strides), dtype, stream)
        except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
            raise SourceError(
                f"frame's __cuda_array_interface__ is {interface!r} ({error!r}): needed shape, typestr, data, version"
            ) from None

    @property
    def layout(self) -> tuple[object, ...]:
        """Everything that its place in the model's input depends on."""
        return self.shape, self.strides, self.dtype, self.chroma

    @property
    def pitch(self) -> int:
        """Bytes from one row to the next. Raises SourceError if there are gaps within a row."""
        row = prod(self.shape[1:])
        if self.strides is None:
            return row
        packed = tuple(prod(self.shape[axis + 1 :]) for axis in range(1, len(self.shape)))
        if self.strides[1:] != packed or self.strides[0] < row:
            raise SourceError(
                f"frame of {self.shape} has strides {self.strides}: needed rows of {row} bytes without gaps, from the "
                "top down: pass a copy, such as frame.contiguous()"
            )
        return self.strides[0]
