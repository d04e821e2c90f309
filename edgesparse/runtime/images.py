"""Folders of images, and images as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.config import InputSpec
from edgesparse.errors import ConfigError
from edgesparse.runtime.preprocess import Preprocessor

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def image_files(folder: Path, count: int | None = None) -> list[Path]:
    """The images of a folder, by name; at most `count`, spread evenly over them. Raises ConfigError without any."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError(f"no images in {folder}: needed files that end in {', '.join(SUFFIXES)}")
    if count is None or count >= len(found):
        return found
    return [found[i * len(found) // count] for i in range(count)]


def read_image(path: Path) -> NDArray[np.uint8]:
    """BGR uint8 [H, W, 3]. Raises ConfigError for a file that is none."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigError(f"cannot read the image {path}: missing or damaged; remove it")
    return np.asarray(image, np.uint8)


class Prepared:
    """The images as the network takes them, batch x 3 x H x W float32, anew at each call; a last batch that is not
    full repeats its last image. `sizes`: height and width of each that was read so far. Raises ConfigError for one
    that cannot be read."""

    def __init__(self, files: list[Path], spec: InputSpec, batch: int) -> None:
        self._files, self._spec, self._batch = files, spec, batch
        self._sizes: dict[Path, tuple[int, int]] = {}

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return list(self._sizes.values())

    def __call__(self) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self._files), self._batch):
            some = self._files[start : start + self._batch]
            buffer = np.empty((self._batch, 3, *self._spec.size), np.float32)
            preprocess = Preprocessor(self._spec, buffer)
            for slot in range(self._batch):
                path = some[min(slot, len(some) - 1)]
                image = read_image(path)
                self._sizes[path] = (image.shape[0], image.shape[1])
                preprocess(image, slot)
            yield buffer
