"""Sources that end: a video file, and images. Every frame is delivered."""

from __future__ import annotations

import glob
import logging
import time
from collections import deque
from pathlib import Path

import cv2

from edgesparse.errors import SourceError
from edgesparse.runtime.images import is_image, natural_order
from edgesparse.stream.frames import Frame, Image, Memory
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.captures import Capture, Opener, frame_rate
from edgesparse.stream.sources.slots import kept, pageable

log = logging.getLogger("edgesparse.stream")


class VideoFile(Source):
    """A video that has an end, decoded frame by frame into as many buffers as it lends frames.

    `opener` opens it at its first frame; `capture`: what that gave, where it was called already."""

    def __init__(self, name: str, opener: Opener, capture: Capture | None = None) -> None:
        self.name = name
        self._opener = opener
        self._images: deque[Image | None] = deque([None])
        self._memory: Memory = pageable
        self._next = 0
        self._over = False
        self._capture = capture or opener()
        self.fps = frame_rate(self._capture)
        total = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.total = total if total > 0 else None

    def read(self) -> Frame | None:
        while not self._over and self._capture.grab():
            index, self._next = self._next, self._next + 1
            time_ns = time.monotonic_ns()
            ok, image = self._capture.retrieve(self._images[0])
            if ok and image.size:
                image = kept(image, self._images.popleft(), self._memory)
                self._images.append(image)
                return Frame(image, time_ns, index, self.name)
            self.dropped += 1
        if not self._over:
            self._end()
        return None

    def lend(self, most: int, memory: Memory) -> None:
        if (most, memory) != (self.lends, self._memory):
            self.lends, self._memory, self._images = most, memory, deque([None] * most)

    def _end(self) -> None:
        self.close()
        if self._next == self.dropped:
            raise SourceError(f"{self.name}: not one of its frames can be decoded; is the file whole?")
        # Containers that only estimate their number of frames are out by one or two.
        if self.total is not None and self._next + 2 < self.total:
            log.warning("%s ends early: found %d frames of %d promised", self.name, self._next, self.total)

    def reopen(self) -> None:
        self.close()
        self._capture = self._opener()
        self._next = self.dropped = 0
        self._over = False

    def close(self) -> None:
        self._over = True
        self._capture.release()


def matches(pattern: str) -> list[Path]:
    """What a glob matches: images in natural order, or one other file. Raises SourceError."""
    found = [Path(match) for match in glob.iglob(pattern, recursive=True)]  # noqa: PTH207 - also absolute ones
    images = sorted(filter(is_image, found), key=natural_order)
    if images:
        return images
    if len(found) == 1:
        return found
    raise SourceError(f"no images match {pattern}: found {len(found)} files")
