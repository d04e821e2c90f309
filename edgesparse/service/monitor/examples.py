"""Images that show what an alarm is about: chosen from frames spread over the last hour, stored when it begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.files import replacing
from edgesparse.service.frame_copies import CopiedFrame
from edgesparse.service.monitor.baseline import HOUR
from edgesparse.service.monitor.drift_settings import MOST_EXAMPLES
from edgesparse.service.monitor.obscure import Blur, obscured

WIDTH = 960
QUALITY = 80
KEPT = 12
"""Frames that a camera keeps in memory, as JPEGs, over an hour."""


@dataclass(frozen=True)
class _Candidate:
    jpeg: bytes
    bins: NDArray[np.int64]


class Examples:
    """The examples of one camera."""

    def __init__(self, folder: Path, camera: str, most: int, blur: Blur) -> None:
        self._folder, self._camera, self._most, self._blur = folder, camera, most, blur
        self._candidates: deque[_Candidate] = deque(maxlen=KEPT)
        self._due_ns = 0

    def add(self, frame: CopiedFrame, bins: NDArray[np.int64]) -> None:
        """Keep a frame, blurred, unless one was kept shortly before. `bins`: its counts [quantities, BINS]."""
        if not self._most or frame.time_ns < self._due_ns:
            return
        self._due_ns = frame.time_ns + int(HOUR / KEPT * 1e9)
        image = obscured(frame.image, frame.detections, self._blur)
        height, width = image.shape[:2]
        if width > WIDTH:
            image = cv2.resize(image, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=cv2.INTER_AREA)
        ok, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        if ok:
            self._candidates.append(_Candidate(jpeg.tobytes(), bins))

    def store(self, quantity: int, grown: NDArray[np.bool_]) -> Sequence[Path]:
        """Replace the stored examples by the newest frames whose values of `quantity` are in bins that have `grown`.
        Returns the files, none if no frame that was kept shows it. Raises OSError.
        """
        shown = [each for each in reversed(self._candidates) if each.bins[quantity][grown].any()][: self._most]
        paths = _paths(self._folder, self._camera)
        for file in paths[len(shown) :]:
            file.unlink(missing_ok=True)
        for file, each in zip(paths, shown, strict=False):
            with replacing(file, mode=0o600) as out:
                out.write(each.jpeg)
        return paths[: len(shown)]


def stored_examples(folder: Path, camera: str) -> Sequence[Path]:
    """Return the files that an earlier process stored."""
    return [path for path in _paths(folder, camera) if path.is_file()]


def _paths(folder: Path, camera: str) -> Sequence[Path]:
    return [folder / f"{camera}.{number}.jpg" for number in range(MOST_EXAMPLES)]
