"""Whether a camera sends an old image again and again: a sensor's noise never repeats to the bit."""

from __future__ import annotations

import cv2
import numpy as np

from edgesparse.stream.frames import Image

_SAMPLED = 64


class Stillness:
    """For how long images have been the same, bit by bit.

    Every image is compared with the one before in a grid of some 64 x 64 pixels alone. Once that has stood still for
    half the time, one whole image is kept, and only if it is met again unchanged the image has stood still.
    """

    def __init__(self) -> None:
        self._sample: Image = np.empty((0, 0, 3), np.uint8)
        self._whole: Image = np.empty((0, 0, 3), np.uint8)
        self._kept = False
        self._since = 0

    def see(self, image: Image, time_ns: int, limit: float) -> bool:
        """Take the next image, BGR uint8 [H, W, 3]; whether it has been the same for `limit` seconds."""
        step = max(1, min(image.shape[:2]) // _SAMPLED)
        sample = image[::step, ::step]
        if sample.shape != self._sample.shape:
            self._sample = np.zeros_like(sample)
        elif np.array_equal(sample, self._sample):
            return self._confirm(image, time_ns, limit)
        self._begin(sample, time_ns)
        return False

    def seconds(self, time_ns: int) -> float:
        """How long the last image has been there."""
        return (time_ns - self._since) / 1e9

    def _begin(self, sample: Image, time_ns: int) -> None:
        np.copyto(self._sample, sample)
        self._since, self._kept = time_ns, False

    def _confirm(self, image: Image, time_ns: int, limit: float) -> bool:
        seconds = self.seconds(time_ns)
        if not self._kept and seconds >= limit / 2:
            if self._whole.shape != image.shape:
                self._whole = np.empty_like(image)
            np.copyto(self._whole, image)
            self._kept = True
            return False
        if not self._kept or seconds < limit:
            return False
        if cv2.norm(image, self._whole, cv2.NORM_INF) == 0:
            return True
        self._begin(self._sample, time_ns)
        return False
