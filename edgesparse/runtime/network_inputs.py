"""A network's inputs: the image, and others whose values are constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import Runner, TensorSpec
from edgesparse.errors import ModelError


def image_input(runner: Runner) -> TensorSpec:
    """The only input [N, C, H, W]. Raises ModelError if there are none or several."""
    images = [spec for spec in runner.inputs if len(spec.shape) == 4]
    if len(images) != 1:
        raise ModelError(f"needed one image input, found {', '.join(map(str, runner.inputs))}")
    return images[0]


def fixed_inputs(runner: Runner, image: TensorSpec) -> tuple[tuple[str, NDArray[Any]], ...]:
    """The values of inputs other than the image, chosen so that boxes are in the input's pixels.

    RT-DETR's exports take the images' (width, height) as integers; PaddleDetection's take `im_shape`, (height, width),
    and `scale_factor`, both as floats.
    """
    height, width = image.shape[2:]
    fixed = []
    for spec in runner.inputs:
        if spec is image:
            continue
        if spec.shape[-1:] == (2,) and spec.dtype.startswith("int"):
            values = (width, height)
        elif spec.shape[-1:] == (2,) and spec.name == "im_shape":
            values = (height, width)
        elif spec.shape[-1:] == (2,) and spec.name == "scale_factor":
            values = (1, 1)
        else:
            raise ModelError(f"cannot fill the input {spec}: needed an image, or the images' sizes N x 2 in int64")
        fixed.append((spec.name, np.broadcast_to(np.array(values, spec.dtype), spec.shape)))
    return tuple(fixed)
