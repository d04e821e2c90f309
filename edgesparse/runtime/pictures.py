"""Folders of pictures, and pictures as a network takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.config import InputSpec
from edgesparse.errors import ConfigError
from edgesparse.runtime.preprocess import Preprocessor

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def picture_files(folder: Path, count: int | None = None) -> list[Path]:
    """The pictures of a folder, by name; at most `count`, spread evenly over them. Raises ConfigError without any."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError(f"no pictures in {folder}: needed files that end in {', '.join(SUFFIXES)}")
    if count is None or count >= len(found):
        return found
    return [found[i * len(found) // count] for i in range(count)]


def read_picture(path: Path) -> NDArray[np.uint8]:
    """BGR uint8 [H, W, 3]. Raises ConfigError for a file that is none."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ConfigError(f"cannot read the picture {path}: missing or damaged; remove it")
    return np.asarray(picture, np.uint8)


def prepared(files: list[Path], spec: InputSpec, batch: int) -> Callable[[], Iterator[NDArray[np.float32]]]:
    """The pictures as the network takes them, batch x 3 x H x W float32, anew at each call; a last batch that is not
    full repeats its last picture. Raises ConfigError for one that cannot be read."""

    def anew() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(files), batch):
            some = files[start : start + batch]
            buffer = np.empty((batch, 3, *spec.size), np.float32)
            preprocess = Preprocessor(spec, buffer)
            for slot in range(batch):
                preprocess(read_picture(some[min(slot, len(some) - 1)]), slot)
            yield buffer

    return anew
