"""A network's inputs: the image, and others whose values are constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import Runner, TensorSpec
from edgesparse.errors import ModelError
from edgesparse.model.size_inputs import size_values


def image_input(runner: Runner) -> TensorSpec:
    """The only input [N, C, H, W]. Raises ModelError if there are none or several."""
    images = [spec for spec in runner.inputs if len(spec.shape) == 4]
    if len(images) != 1:
        raise ModelError(f"needed one image input, found {', '.join(map(str, runner.inputs))}")
    return images[0]


def fixed_inputs(runner: Runner, image: TensorSpec) -> tuple[tuple[str, NDArray[Any]], ...]:
    """The values of inputs other than the image (`size_values`).

    Raises ModelError for an input that is not known.
    """
    fixed = []
    for spec in runner.inputs:
        if spec is image:
            continue
        values = size_values(spec.name, spec.shape, spec.dtype, (image.shape[2], image.shape[3]))
        if values is None:
            raise ModelError(f"cannot fill the input {spec}: needed an image, or the images' sizes N x 2 in int64")
        fixed.append((spec.name, np.broadcast_to(values, spec.shape)))
    return tuple(fixed)
