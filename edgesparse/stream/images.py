"""Images as a network takes them, over and over: what calibration and pruning without training look at."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgesparse.config import InputSpec
from edgesparse.errors import SourceError
from edgesparse.runtime.preprocess import Preprocessor
from edgesparse.stream.sources.open import open_source

Batch = NDArray[np.float32]


class Batches:
    """The first `count` frames of `source` (a folder, glob or video), each 1 x 3 x H x W float32, anew at each call.
    `sizes`: height and width of each that was read so far.

    Raises SourceError where `source` holds no images, or is a camera: it must give the same images each time.
    """

    def __init__(self, source: str, spec: InputSpec, count: int) -> None:
        self._source, self._spec, self._count = source, spec, count
        self._sizes: dict[int, tuple[int, int]] = {}
        with open_source(source) as stream:
            if stream.live:
                raise SourceError(f"{stream.name} is a camera: give a folder, a glob or a video of images")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return list(self._sizes.values())

    def __call__(self) -> Iterator[Batch]:
        with open_source(self._source) as frames:
            for frame in islice(frames, self._count):
                self._sizes[frame.index] = (frame.image.shape[0], frame.image.shape[1])
                buffer = np.empty((1, 3, *self._spec.size), np.float32)
                Preprocessor(self._spec, buffer)(frame.image)
                yield buffer
