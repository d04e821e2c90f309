"""Masks of objects as COCO run lengths, and their conversion to bitmaps, outlines and text."""

from __future__ import annotations

from collections.abc import Sequence
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

    def placed(self, top: int, left: int, height: int, width: int) -> Mask:
        """The same pixels in a larger image of `height` x `width`, in which this one begins at `top` and `left`."""
        edges = np.cumsum(self.counts, dtype=np.int64)
        starts, ends = edges[0:-1:2], edges[1::2]
        if not len(starts):
            return Mask(height, width, np.array([height * width], np.uint32))
        first, columns = starts // self.height, (ends - 1) // self.height - starts // self.height + 1
        # A run that continues in the next column becomes one per column.
        run = np.repeat(np.arange(len(starts)), columns)
        column = np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns, columns) + first[run]
        low = np.maximum(starts[run], column * self.height)
        high = np.minimum(ends[run], (column + 1) * self.height)
        shift = (left + column) * height + top - column * self.height
        return mask_of_edges(np.stack([low + shift, high + shift], 1).ravel(), height, width)

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


def mask_of_edges(edges: NDArray[np.int64], height: int, width: int) -> Mask:
    """Build a mask from the positions where runs of the object start and end, alternately."""
    if len(edges) > 2:  # a run that continues at the top of the next column is one run
        apart = edges[1:-1:2] != edges[2::2]
        edges = np.concatenate([edges[:1], edges[1:-1][np.repeat(apart, 2)], edges[-1:]])
    total = height * width
    ends = np.concatenate([[0], edges, [total] if not len(edges) or edges[-1] < total else []])
    return Mask(height, width, np.diff(ends).astype(np.uint32))


def union(masks: Sequence[Mask]) -> Mask:
    """The pixels that are in any of these masks of images of one size."""
    edges = [np.cumsum(mask.counts, dtype=np.int64) for mask in masks]
    starts = np.sort(np.concatenate([each[0:-1:2] for each in edges]))
    ends = np.sort(np.concatenate([each[1::2] for each in edges]))
    # A run of the union starts where no other is open, and ends before the next one starts.
    first = np.concatenate([[True], starts[1:] > ends[:-1]]) if len(starts) else np.empty(0, np.bool_)
    last = np.concatenate([first[1:], [True]]) if len(starts) else first
    return mask_of_edges(np.stack([starts[first], ends[last]], 1).ravel(), masks[0].height, masks[0].width)


def overlap(first: Mask, second: Mask) -> float:
    """Return the intersection over union of two masks of images of one size; 1 if both are empty."""
    together = union((first, second)).area
    return (first.area + second.area - together) / together if together else 1.0
