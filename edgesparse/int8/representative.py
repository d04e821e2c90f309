"""Whether calibration images stand for what the detector will see: warnings, with the figures they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgesparse.config import InputSpec
from edgesparse.int8.histograms import Histogram
from edgesparse.int8.thresholds import percentile

FEW = 100
DARK = 0.15
"""Mean brightness, of white's."""
ALIKE = 0.25
"""How far images lie apart, as a share of the contrast within them."""
GROWN, GROWING = 0.1, 0.1
"""A range that grew by more than the one in more than the other of all tensors has not settled."""
ENLARGED = 1.5
"""Images that are enlarged by more lack the detail that larger ones would show the network."""
PADDED = 0.5
"""Share of the input that is padding."""
THUMBNAIL = 16


@dataclass
class Images:
    """Statistics of the images as the network gets them, in memory that does not grow.

    `spec` tells how pixels became inputs; without it brightness is unknown.
    """

    spec: InputSpec | None = None
    count: int = 0
    _light: float = 0.0
    _pixels: int = 0
    _thumbnail: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL)))
    _squares: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL)))
    _contrast: float = 0.0

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Take in a batch [N, 3, H, W]; inputs of other shapes are only counted."""
        self.count += len(batch)
        if batch.ndim != 4 or batch.shape[1] != 3:
            return
        for image in batch:
            small = _thumbnail(self._grey(image))
            self._thumbnail += small
            self._squares += small**2
            self._contrast += float(small.var())

    def _grey(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[H, W], its padding as bright as the rest is on average; notes how bright that is."""
        if self.spec is None:
            return np.asarray(image.mean(0))
        std, mean = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.spec.std, self.spec.mean))
        pixels = (image * std + mean) / np.float32(self.spec.scale)
        grey: npt.NDArray[np.float32] = pixels.mean(0)
        inside = (np.abs(pixels - self.spec.pad) > 0.25).any(0)
        light = float(grey[inside].sum(dtype=np.float64))
        self._light, self._pixels = self._light + light, self._pixels + int(inside.sum())
        grey[~inside] = light / max(1, int(inside.sum()))
        return grey

    @property
    def apart(self) -> float:
        """How far the images lie apart: the spread between them over the spread within, both as thumbnails."""
        between = self._squares / self.count - (self._thumbnail / self.count) ** 2
        within = self._contrast / self.count
        return float(np.sqrt(max(between.mean(), 0) / within)) if within else 0.0

    @property
    def brightness(self) -> float | None:
        """Mean of the pixels that are no padding, as a share of white; None where it is unknown."""
        return self._light / self._pixels / 255 if self._pixels else None

    def warnings(self) -> list[str]:
        found = []
        if self.count < FEW:
            found.append(f"only {self.count} calibration images: {FEW} or more give ranges that hold elsewhere")
        if self.brightness is not None and self.brightness < DARK:
            found.append(
                f"the calibration images are dark ({self.brightness:.0%} of white on average): add bright ones"
            )
        if self.count > 1 and self.apart < ALIKE:
            found.append(
                f"the calibration images are alike (they differ by {self.apart:.0%} of the contrast within them): "
                "take them from other scenes and hours"
            )
        return found


def unsettled(earlier: Mapping[str, Histogram], every: Mapping[str, Histogram], count: int) -> list[str]:
    """A warning where ranges still grow: those of `earlier`, after `count` images, against those of `every`."""
    growth = {}
    for name, histogram in earlier.items():
        before = percentile(histogram)
        growth[name] = percentile(every[name]) / before - 1 if before else float(every[name].amax > 0)
    grown = {name: share for name, share in growth.items() if share > GROWN}
    if len(grown) <= GROWING * len(growth):
        return []
    most = max(grown, key=grown.__getitem__)
    return [
        f"the ranges of {len(grown)} of {len(growth)} tensors grew by more than {GROWN:.0%} (most: {most} by "
        f"{grown[most]:.0%}) after the first {count} images: add images until they settle"
    ]


def size_warnings(frames: Sequence[tuple[int, int]], spec: InputSpec) -> list[str]:
    """Warnings about images of these (height, width) for this input: enlarged ones, and ones that leave it empty."""
    if not frames:
        return []
    sizes = np.array(frames, float).reshape(-1, 2)
    ratios = np.array(spec.size) / sizes
    found = []
    enlarged = ratios.min(1) > ENLARGED
    if enlarged.mean() > 0.1:
        height, width = sizes[enlarged][0].astype(int)
        found.append(
            f"{enlarged.sum()} of {len(sizes)} calibration images are far smaller than the input of "
            f"{spec.size[0]}x{spec.size[1]} (one is {height}x{width}): take images as large as the camera's"
        )
    filled = (sizes * ratios.min(1, keepdims=True)).prod(1) / np.prod(spec.size)
    if spec.letterbox != "stretch" and 1 - np.median(filled) > PADDED:
        found.append(
            f"{1 - np.median(filled):.0%} of the input is padding for half the calibration images: take images of "
            f"the camera's shape, or set input.size to that shape"
        )
    return found


def _thumbnail(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[THUMBNAIL, THUMBNAIL] means of equal parts."""
    rows, columns = (np.linspace(0, n, THUMBNAIL, endpoint=False).astype(int) for n in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey.astype(np.float64), rows, 0), columns, 1)
    areas = np.diff([*rows, grey.shape[0]])[:, None] * np.diff([*columns, grey.shape[1]])
    return np.asarray(sums / np.maximum(areas, 1))
