"""Distill a detector: a faster student learns from it on images without labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesparse.config import InputSpec
from edgesparse.stream.sources.open import image_batches


def pixels_of(source: str, spec: InputSpec, count: int) -> NDArray[np.uint8]:
    """The first `count` images of a folder, glob or video, letterboxed: uint8 [N, 3, H, W] in the input's colors.

    Raises SourceError, ImageError.
    """
    plain = spec.model_copy(update={"scale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    batches = image_batches(source, plain, count)
    return np.concatenate([batch.clip(0, 255).astype(np.uint8) for batch in batches()])
