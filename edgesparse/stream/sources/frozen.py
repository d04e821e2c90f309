"""Detects a camera that keeps sending an old image: a sensor's noise never repeats exactly."""

from __future__ import annotations

import cv2
import numpy as np

from edgesparse.stream.frames import Image

_SAMPLES = 64


class FreezeDetector:
    """Measures how long images have been identical, bit for bit.

    Each image is compared with the previous one on a grid of about 64 x 64 pixels. After half of the limit without a
    change in the grid, one whole image is kept, and the image counts as frozen only if a later one is identical to it.
    """

    def __init__(self) -> None:
        self._sample: Image = np.empty((0, 0, 3), np.uint8)
        self._reference: Image = np.empty((0, 0, 3), np.uint8)
        self._has_reference = False
        self._since = 0

    def is_frozen(self, image: Image, time_ns: int, limit: float) -> bool:
        """Take the next image, BGR uint8 [H, W, 3]. Returns whether it has been the same for `limit` seconds."""
        step = max(1, min(image.shape[:2]) // _SAMPLES)
        sample = image[::step, ::step]
        if sample.shape != self._sample.shape:
            self._sample = np.zeros_like(sample)
        elif np.array_equal(sample, self._sample):
            return self._confirm(image, time_ns, limit)
        self._restart(sample, time_ns)
        return False

    def seconds(self, time_ns: int) -> float:
        """Return how many seconds the last image has been the same."""
        return (time_ns - self._since) / 1e9

    def _restart(self, sample: Image, time_ns: int) -> None:
        np.copyto(self._sample, sample)
        self._since, self._has_reference = time_ns, False

    def _confirm(self, image: Image, time_ns: int, limit: float) -> bool:
        seconds = self.seconds(time_ns)
        if not self._has_reference and seconds >= limit / 2:
            if self._reference.shape != image.shape:
                self._reference = np.empty_like(image)
            np.copyto(self._reference, image)
            self._has_reference = True
            return False
        if not self._has_reference or seconds < limit:
            return False
        if cv2.norm(image, self._reference, cv2.NORM_INF) == 0:
            return True
        self._restart(self._sample, time_ns)
        return False
