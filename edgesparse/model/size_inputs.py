"""Inputs beside the image: what fills them so that boxes are in the input's pixels, when it runs and when it is made
faster."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def size_values(name: str, shape: tuple[Any, ...], dtype: str, size: tuple[int, int]) -> NDArray[Any] | None:
    """Return the two values of the input `name` per image, for images of `size` (height, width); None if unknown.

    RT-DETR's exports take the images' (width, height) as integers; PaddleDetection's take `im_shape`, (height, width),
    and `scale_factor`, both as floats.
    """
    if shape[-1:] != (2,):
        return None
    height, width = size
    if dtype.startswith("int"):
        return np.array((width, height), dtype)
    known = {"im_shape": (height, width), "scale_factor": (1, 1)}
    return np.array(known[name], dtype) if name in known and dtype.startswith("float") else None
