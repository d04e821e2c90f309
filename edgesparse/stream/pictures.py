"""Pictures as a network takes them, over and over: what calibration and pruning without training look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgesparse.config import InputSpec
from edgesparse.errors import SourceError
from edgesparse.runtime.preprocess import Preprocessor
from edgesparse.stream.sources import open_source

Batch = NDArray[np.float32]


def batches(source: str, spec: InputSpec, count: int) -> Callable[[], Iterator[Batch]]:
    """The first `count` frames of `source` (a folder, glob or video), each 1 x 3 x H x W float32, anew at each call.

    Raises SourceError where `source` holds no pictures, or is a camera: it must give the same pictures each time.
    """
    with open_source(source) as stream:
        if stream.live:
            raise SourceError(f"{stream.name} is a camera: give a folder, a glob or a video of pictures")

    def anew() -> Iterator[Batch]:
        with open_source(source) as frames:
            for frame in islice(frames, count):
                buffer = np.empty((1, 3, *spec.size), np.float32)
                Preprocessor(spec, buffer)(frame.image)
                yield buffer

    return anew
