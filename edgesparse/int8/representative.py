"""Whether calibration images represent what the detector will see: warnings, with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgesparse.config import InputSpec
from edgesparse.int8.histograms import MagnitudeHistogram
from edgesparse.int8.thresholds import percentile

FEW = 100
DARK = 0.15
"""Mean brightness, as a share of white."""
ALIKE = 0.25
"""Difference between images, as a share of the contrast within them."""
GROWN, GROWING = 0.1, 0.1
"""Ranges have not settled if more than a share GROWING of them grew by more than GROWN."""
ENLARGED = 1.5
"""Images that are enlarged by more than this lack the detail that larger images would have."""
PADDED = 0.5
"""Share of the input that is padding."""
THUMBNAIL = 16


@dataclass
class ImageStatistics:
    """Statistics of the images as model inputs, in constant memory. `spec`: how pixels are converted to inputs; without
    it brightness is unknown.
    """

    spec: InputSpec | None = None
    count: int = 0
    _light: float = 0.0
    _pixels: int = 0
    _thumbnail: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL)))
    _squares: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL)))
    _contrast: float = 0.0

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Add a batch [N, 3, H, W]; inputs of other shapes are only counted."""
        self.count += len(batch)
        if batch.ndim != 4 or batch.shape[1] != 3:
            return
        for image in batch:
            small = _thumbnail(self._gray(image))
            self._thumbnail += small
            self._squares += small**2
            self._contrast += float(small.var())

    def _gray(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return [H, W], with padding as bright as the image's mean; adds to the brightness."""
        if self.spec is None:
            return np.asarray(image.mean(0))
        std, mean = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.spec.std, self.spec.mean))
        pixels = (image * std + mean) / np.float32(self.spec.scale)
        gray: npt.NDArray[np.float32] = pixels.mean(0)
        inside = (np.abs(pixels - self.spec.pad) > 0.25).any(0)
        light = float(gray[inside].sum(dtype=np.float64))
        self._light, self._pixels = self._light + light, self._pixels + int(inside.sum())
        gray[~inside] = light / max(1, int(inside.sum()))
        return gray

    @property
    def variety(self) -> float:
        """How much the images differ: the spread between them divided by the spread within, as thumbnails."""
        between = self._squares / self.count - (self._thumbnail / self.count) ** 2
        within = self._contrast / self.count
        return float(np.sqrt(max(between.mean(), 0) / within)) if within else 0.0

    @property
    def brightness(self) -> float | None:
        """Mean of the pixels without padding, as a share of white; None if unknown."""
        return self._light / self._pixels / 255 if self._pixels else None

    def warnings(self) -> list[str]:
        """Return the problems of these images, one line each."""
        lines = []
        if self.count < FEW:
            lines.append(f"only {self.count} calibration images: {FEW} or more give ranges that generalize")
        if self.brightness is not None and self.brightness < DARK:
            lines.append(
                f"the calibration images are dark ({self.brightness:.0%} of white on average): add bright ones"
            )
        if self.count > 1 and self.variety < ALIKE:
            lines.append(
                f"the calibration images are alike (they differ by {self.variety:.0%} of the contrast within them): "
                "take them from other scenes and hours"
            )
        return lines


def unsettled(
    earlier: Mapping[str, MagnitudeHistogram], final: Mapping[str, MagnitudeHistogram], count: int
) -> list[str]:
    """Return a warning if ranges still grow: `earlier`, after `count` images, against `final`."""
    growth = {}
    for name, histogram in earlier.items():
        before = percentile(histogram)
        growth[name] = percentile(final[name]) / before - 1 if before else float(final[name].amax > 0)
    grown = {name: share for name, share in growth.items() if share > GROWN}
    if len(grown) <= GROWING * len(growth):
        return []
    most = max(grown, key=grown.__getitem__)
    return [
        f"the ranges of {len(grown)} of {len(growth)} tensors grew by more than {GROWN:.0%} (most: {most} by "
        f"{grown[most]:.0%}) after the first {count} images: add images until they settle"
    ]


def size_warnings(frames: Sequence[tuple[int, int]], spec: InputSpec) -> list[str]:
    """Return warnings about images of these (height, width) for this input: too small, or mostly padding."""
    if not frames:
        return []
    sizes = np.array(frames, float).reshape(-1, 2)
    ratios = np.array(spec.size) / sizes
    lines = []
    enlarged = ratios.min(1) > ENLARGED
    if enlarged.mean() > 0.1:
        height, width = sizes[enlarged][0].astype(int)
        lines.append(
            f"{enlarged.sum()} of {len(sizes)} calibration images are far smaller than the input of "
            f"{spec.size[0]}x{spec.size[1]} (for example {height}x{width}): use images as large as the camera's"
        )
    filled = (sizes * ratios.min(1, keepdims=True)).prod(1) / np.prod(spec.size)
    if spec.letterbox != "stretch" and 1 - np.median(filled) > PADDED:
        lines.append(
            f"{1 - np.median(filled):.0%} of the input is padding for half the calibration images: use images of "
            f"the camera's aspect ratio, or set input.size to it"
        )
    return lines


def _thumbnail(gray: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[THUMBNAIL, THUMBNAIL] means of equal parts."""
    rows, columns = (np.linspace(0, n, THUMBNAIL, endpoint=False).astype(int) for n in gray.shape)
    sums = np.add.reduceat(np.add.reduceat(gray.astype(np.float64), rows, 0), columns, 1)
    areas = np.diff([*rows, gray.shape[0]])[:, None] * np.diff([*columns, gray.shape[1]])
    return np.asarray(sums / np.maximum(areas, 1))
