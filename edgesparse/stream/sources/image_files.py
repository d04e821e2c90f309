"""A source of image files: one image, a folder or a glob."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from edgesparse.errors import ImageError, SourceError
from edgesparse.runtime.images import read_image
from edgesparse.stream.frames import Allocator, Frame
from edgesparse.stream.sources.base import Source
from edgesparse.wording import printable

log = logging.getLogger("edgesparse.stream")


class ImageFiles(Source):
    """Images in the given order. Frames are named by their paths relative to their common folder.

    An image that cannot be read is logged with the reason and skipped; the number of skipped images is logged at the
    end. While `strict` is set, `read` raises ImageError instead. Raises SourceError if none of the images can be read.
    """

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.total = len(paths)
        self.paths, self.strict = paths, False
        self._root = Path(os.path.commonpath([path.parent for path in paths]))
        self._next = 0

    def read(self) -> Frame | None:
        while self._next < len(self.paths):
            index, self._next = self._next, self._next + 1
            path = self.paths[index]
            try:
                image = read_image(path)
            except ImageError as error:
                if self.strict:
                    raise
                self.dropped += 1
                log.warning("skipped: %s", error)
                continue
            return Frame(image, time.monotonic_ns(), index, printable(path.relative_to(self._root).as_posix()))
        self._report_skipped()
        return None

    def _report_skipped(self) -> None:
        if not self.dropped:
            return
        if self.dropped == len(self.paths):
            raise SourceError(f"{self.name}: none of its {self.dropped} images can be read")
        log.warning("%s: %d of %d images were skipped", self.name, self.dropped, len(self.paths))

    def lend(self, most: int, memory: Allocator) -> None:
        self.lends = most  # each image has its own memory

    def reopen(self) -> None:
        self._next = self.dropped = 0

    def close(self) -> None:
        self._next = len(self.paths)
