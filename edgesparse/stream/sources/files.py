"""Sources that end: a video file, and images. Every frame is delivered."""

from __future__ import annotations

import glob
import logging
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import cv2

from edgesparse.errors import SourceError
from edgesparse.stream.frames import Frame, Image, Memory, Source
from edgesparse.stream.sources.captures import Capture, Opener, frame_rate, prepare_opencv
from edgesparse.stream.sources.slots import kept, pageable

log = logging.getLogger("edgesparse.stream")

IMAGES = frozenset([".bmp", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])


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


class ImageFiles(Source):
    """Images in the given order; those that cannot be read are said and skipped."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.total = len(paths)
        self._paths = paths
        self._root = Path(os.path.commonpath([path.parent for path in paths]))
        self._next = 0

    def read(self) -> Frame | None:
        prepare_opencv()
        while self._next < len(self._paths):
            index, self._next = self._next, self._next + 1
            path = self._paths[index]
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None and image.size:
                return Frame(image, time.monotonic_ns(), index, path.relative_to(self._root).as_posix())
            self.dropped += 1
            log.warning("cannot read image %s: skipped", path)
        if self.dropped == len(self._paths):
            raise SourceError(f"{self.name}: not one of {self.dropped} images can be read")
        return None

    def lend(self, most: int, memory: Memory) -> None:
        self.lends = most  # each has memory of its own

    def reopen(self) -> None:
        self._next = self.dropped = 0

    def close(self) -> None:
        self._next = len(self._paths)


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES


def images_in(folder: Path) -> list[Path]:
    """The images directly in a folder, in natural order. Raises SourceError when there are none."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}") from error
    found = sorted(filter(is_image, entries), key=natural)
    if not found:
        endings = " ".join(sorted(IMAGES))
        raise SourceError(f"no images in {folder}: found {len(entries)} entries, none ending in {endings}")
    return found


def matches(pattern: str) -> list[Path]:
    """What a glob matches: images in natural order, or one other file. Raises SourceError."""
    found = [Path(match) for match in glob.iglob(pattern, recursive=True)]  # noqa: PTH207 - also absolute ones
    images = sorted(filter(is_image, found), key=natural)
    if images:
        return images
    if len(found) == 1:
        return found
    raise SourceError(f"no images match {pattern}: found {len(found)} files")


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame2.jpg is before frame10.jpg."""
    parts = re.findall(r"(\d+)|(\D+)", str(path))
    return [(0, int(digits), digits) if digits else (1, 0, text) for digits, text in parts]
