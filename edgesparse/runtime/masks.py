"""Masks of objects as COCO run lengths, and their conversion to bitmaps, outlines and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Mask:
    """The pixels of one object in an image of `height` x `width`, as run lengths.

    `counts`: uint32, the lengths of runs down the columns, from the left: background, object, background, ... This is
    COCO's uncompressed RLE (https://github.com/cocodataset/cocoapi, common/maskApi.h).
    """

    height: int
    width: int
    counts: NDArray[np.uint32]
    _outlines: list[NDArray[np.int32]] | None = field(default=None, init=False, repr=False, compare=False)
    """What `polygons` has returned: several sinks ask for it in each frame."""

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(self.counts[1::2].sum())

    def bitmap(self) -> NDArray[np.bool_]:
        """bool [height, width]."""
        whole = np.zeros((self.height, self.width), np.bool_)
        left, columns = Bitmaps().columns(self)
        whole[:, left : left + len(columns)] = columns.T
        return whole

    def polygons(self, bitmaps: Bitmaps | None = None) -> list[NDArray[np.int32]]:
        """The outlines of its parts, largest first, each [n, 2] as x, y of pixels; holes are left out.

        They are computed once: do not change them.
        """
        outlines = self._outlines
        if outlines is None:
            outlines = self._trace(bitmaps or Bitmaps())
            object.__setattr__(self, "_outlines", outlines)
        return outlines

    def _trace(self, bitmaps: Bitmaps) -> list[NDArray[np.int32]]:
        left, columns = bitmaps.columns(self)
        if not len(columns):
            return []
        contours, _ = cv2.findContours(columns, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outlines = sorted(contours, key=lambda contour: -cv2.contourArea(contour))
        return [(outline.reshape(-1, 2)[:, ::-1] + (left, 0)).astype(np.int32) for outline in outlines]

    def as_coco(self) -> dict[str, Any]:
        """`size` and `counts` as in COCO results: differences from the run two before, six bits per character."""
        text, counts = bytearray(), self.counts.tolist()
        for i, count in enumerate(counts):
            rest, more = count - counts[i - 2] if i > 2 else count, True
            while more:
                bits, rest = rest & 31, rest >> 5
                more = rest != (-1 if bits & 16 else 0)
                text.append(48 + (bits | 32 if more else bits))
        return {"size": [self.height, self.width], "counts": text.decode()}


class Bitmaps:
    """Turns run lengths into pixels, in memory that is reused while masks come from images of one size."""

    def __init__(self) -> None:
        self._pixels = np.empty(0, np.uint8)

    def columns(self, mask: Mask) -> tuple[int, NDArray[np.uint8]]:
        """The first column that has a pixel, and the columns from there to the last such one, [n, height]: 0 or 1.

        Valid until the next call.
        """
        edges = np.cumsum(mask.counts, dtype=np.int64)
        starts, ends = edges[0:-1:2], edges[1::2]
        if not len(starts):
            return 0, np.empty((0, mask.height), np.uint8)
        first, last = int(starts[0]) // mask.height, (int(ends[-1]) - 1) // mask.height
        if len(self._pixels) <= mask.height * mask.width:
            self._pixels = np.empty(mask.height * mask.width + 1, np.uint8)
        pixels = self._pixels[: (last + 1 - first) * mask.height + 1]
        pixels[:] = 0
        pixels[starts - first * mask.height] = 1
        pixels[ends - first * mask.height] = 255  # minus one
        np.cumsum(pixels, dtype=np.uint8, out=pixels)
        return first, pixels[:-1].reshape(-1, mask.height)
