"""Masks of objects from a network's prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.runtime.detections import Detections
from edgesparse.runtime.letterbox import Letterbox
from edgesparse.runtime.masks import Mask, mask_of_edges

CHUNK = 16
"""Masks whose logits are computed at once, at the prototypes' resolution."""


class MaskMaker:
    """Computes masks from prototypes [k, rows, columns] and an object's k coefficients, as in YOLACT: the sign of their
    linear combination, inside the object's box (Bolya et al., YOLACT: Real-time Instance Segmentation, 2019).

    Logits are interpolated to the frame's pixels before the sign is taken. Buffers are allocated here and when the
    frame's size changes.
    """

    def __init__(self, shape: Sequence[int], size: tuple[int, int]) -> None:
        count, *self._shape = shape
        self._size = size
        self._prototypes = np.empty((count, int(np.prod(self._shape))), np.float32)
        self._logits = np.empty((CHUNK, self._prototypes.shape[1]), np.float32)
        self._values = np.empty(0, np.float32)
        self._inside, self._changes = np.empty(0, np.bool_), np.empty(0, np.bool_)

    def __call__(
        self,
        detections: Detections,
        candidates: NDArray[np.float32],
        prototypes: NDArray[Any] | None,
        letterbox: Letterbox,
    ) -> Detections:
        """Return the detections with masks; those with an empty mask are left out, as in Ultralytics."""
        if prototypes is None or not len(candidates):
            return replace(detections, masks=())
        np.copyto(self._prototypes, prototypes.reshape(self._prototypes.shape))
        masks: list[Mask] = []
        for start in range(0, len(candidates), CHUNK):
            part = candidates[start : start + CHUNK, 4:]
            logits = np.matmul(part, self._prototypes, out=self._logits[: len(part)])
            boxes = detections.xyxy[start : start + CHUNK].tolist()
            for row, box in zip(logits, boxes, strict=True):
                masks.append(self._mask(row.reshape(self._shape), box, letterbox))
        result = replace(detections, masks=tuple(masks))
        full = [len(mask.counts) > 1 for mask in masks]
        return result if all(full) else result[np.array(full, np.bool_)]

    def _mask(self, logits: NDArray[np.float32], box: list[float], at: Letterbox) -> Mask:
        height, width = at.frame_height, at.frame_width
        left, top, right, bottom = (int(np.ceil(value)) for value in box)
        rows, columns = bottom - top, right - left
        if rows < 1 or columns < 1:
            return Mask(height, width, np.array([height * width], np.uint32))
        if len(self._inside) < width * (height + 1):
            pixels = width * (height + 1)
            self._values = np.empty(pixels, np.float32)
            self._inside, self._changes = np.empty(pixels, np.bool_), np.empty(pixels, np.bool_)
        values = self._values[: columns * rows].reshape(columns, rows)
        cv2.warpAffine(
            logits,
            self._from_frame(left, top, at),
            (rows, columns),
            dst=values,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        # Columns of pixels, as run lengths need them, each followed by a background pixel that ends its last run.
        inside = self._inside[: columns * (rows + 1)].reshape(columns, rows + 1)
        inside[:, rows] = False
        np.greater(values, 0, out=inside[:, :rows])
        flat = inside.reshape(-1)
        changes = np.not_equal(flat[1:], flat[:-1], out=self._changes[: len(flat) - 1])
        edges = np.flatnonzero(changes) + 1
        if flat[0]:
            edges = np.concatenate([[0], edges])
        column, row = np.divmod(edges, rows + 1)
        return mask_of_edges((left + column) * height + top + row, height, width)

    def _from_frame(self, left: int, top: int, at: Letterbox) -> NDArray[np.float64]:
        """The affine map from (row, column) of a part of the frame to x, y of the prototypes, between pixel centers."""
        x = at.width / at.frame_width, self._shape[1] / self._size[1]
        y = at.height / at.frame_height, self._shape[0] / self._size[0]
        first_x = ((left + 0.5) * x[0] + at.left) * x[1] - 0.5
        first_y = ((top + 0.5) * y[0] + at.top) * y[1] - 0.5
        return np.array([[0, x[0] * x[1], first_x], [y[0] * y[1], 0, first_y]])
