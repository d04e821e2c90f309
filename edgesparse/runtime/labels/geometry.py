"""Detects from the boxes themselves that they are in a different unit, format or scale than their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.labels.base import Faults, LabeledBox, Size

TOLERANCE = 0.02
"""How far a box may extend beyond its image, as a share of the image's side."""
OUTSIDE = 0.05
"""A larger share of boxes outside their images is not an accident."""
FEW = 4
"""Fewer boxes do not prove a format."""


def check_geometry(boxes: Sequence[LabeledBox], sizes: Mapping[int, Size], relative: bool, faults: Faults) -> None:
    """Add a fault if boxes cannot be left, top, width and height within their images. `sizes` are the image sizes, as
    far as known; `relative` boxes are relative to them.
    """
    known = [box for box in boxes if relative or box.image in sizes]
    if not boxes:
        return
    xywh = np.array([box.xywh for box in boxes], np.float64)
    if not relative and xywh.max() <= 1.5 and all(min(size) > 2 for size in sizes.values()):
        problem = f"boxes normalized to 0..1 (the largest value is {xywh.max():.3g})"
        faults.add_all(problem, "multiply them by the image's size", [""] * len(boxes))
        return
    if not known:
        return
    xywh = np.array([box.xywh for box in known], np.float64)
    size = np.array([(1, 1) if relative else sizes[box.image] for box in known], np.float64)
    outside = _leaves(xywh[:, :2] + xywh[:, 2:], xywh[:, :2], size)
    if not outside.any():
        return
    examples = [_example(known[i], None if relative else sizes[known[i].image]) for i in np.flatnonzero(outside)]
    if _fit_as_corners(xywh, size):
        problem = "boxes that leave their image as x, y, width, height, and all fit as x1, y1, x2, y2"
        faults.add_all(problem, "write x, y, width, height", examples, total=len(known))
    elif outside.mean() > OUTSIDE:
        reason = "the labels belong to images of another size, or are in another format"
        faults.add_all("boxes that leave their image", reason, examples, total=len(known))
    else:
        faults.add_all(
            "boxes that leave their image", "they are used as they are", examples, fatal=False, total=len(known)
        )


def _leaves(high: NDArray[np.float64], low: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    beyond: NDArray[np.bool_] = (high > size * (1 + TOLERANCE)) | (low < -size * TOLERANCE)
    return np.asarray(beyond.any(axis=1), np.bool_)


def _fit_as_corners(values: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
    """Whether all are boxes within their images if read as x1, y1, x2, y2."""
    low, high = values[:, :2], values[:, 2:]
    return len(values) >= FEW and bool((high > low).all()) and not _leaves(high, low, size).any()


def _example(box: LabeledBox, size: Size | None) -> str:
    values = ", ".join(f"{value:g}" for value in box.xywh)
    return f"{box.source}: [{values}]" + (f" of {size[0]}x{size[1]}" if size else "")
