"""Converts what a detector is called with to frames: files, arrays, PIL images, and lists of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.errors import SourceError
from edgesparse.runtime.images import Image, read_image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


class CudaArray(Protocol):
    """An array in GPU memory: PyTorch's, CuPy's, Numba's, pycuda's."""

    @property
    def __cuda_array_interface__(self) -> Any: ...


FrameInput = NDArray[np.uint8] | CudaArray | DeviceFrame
"""A frame in the CPU's memory or the GPU's."""
ImageInput = Union[str, "os.PathLike[str]", NDArray[np.uint8], "PillowImage", CudaArray]
"""An image file, a BGR array uint8 [H, W, 3] in the CPU's memory or the GPU's, or a PIL image."""
ACCEPTED = "an image file, a BGR array uint8 [H, W, 3], a PIL image, or a list of these"


def is_batch(images: object) -> bool:
    """Whether this is several images: a list, a tuple, or an array [N, H, W, 3]."""
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)


def as_frame(image: Any) -> FrameInput:
    """Return one image as BGR uint8 [H, W, 3]; an array is returned unchanged. Raises SourceError for anything else,
    ImageError for a file that cannot be read.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, str | os.PathLike):
        return _of_file(os.fspath(image))
    if _is_pillow(image):
        return _of_pillow(image)
    if hasattr(image, "__cuda_array_interface__"):
        array: CudaArray = image
        return array
    raise SourceError(f"cannot detect in {_described(image)}: needed {ACCEPTED}")


def as_frames(images: Any) -> list[FrameInput]:
    """Return each of several images as a frame. Raises SourceError."""
    return [as_frame(image) for image in images]


def _of_file(name: str) -> Image:
    path = Path(name)
    if "://" in name or name.isdecimal():
        raise SourceError("cannot detect in a stream: open it with edgesparse.open_source, and pass each frame.image")
    if path.is_dir():
        raise SourceError(f"{path} is a folder: open it with edgesparse.open_source, and pass each frame.image")
    if not path.is_file():
        raise SourceError(f"no image {path}: needed {ACCEPTED}")
    return read_image(path)


def _is_pillow(image: object) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(image, module.Image)


def _of_pillow(image: Any) -> Image:
    """Convert a PIL image, rotated according to its EXIF orientation, like a file, and without alpha."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        gray = (np.asarray(upright) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[..., ::-1])


def _described(value: object) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    hint = " (pass its .image)" if hasattr(value, "image") else ""
    hint = hint or (" (pass .numpy(), as BGR uint8 [H, W, 3])" if hasattr(value, "numpy") else "")
    return f"{name}{hint}"
