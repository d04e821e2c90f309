"""A source of video files. Every frame is delivered."""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path

import cv2

from edgesparse.errors import SourceError
from edgesparse.runtime.opencv import openable, prepare_opencv
from edgesparse.stream.frames import Allocator, Frame, Image
from edgesparse.stream.sources.base import Source
from edgesparse.stream.sources.capture import Capture, Opener, frame_rate
from edgesparse.stream.sources.coded_size import CHANGEABLE, TrueSizeVideo
from edgesparse.stream.sources.frame_buffers import allocate_pageable, stored
from edgesparse.wording import printable

log = logging.getLogger("edgesparse.stream")

LEAST_ATTEMPTS = 100
"""Undecodable frames in a row after which the end is assumed, if the container announces fewer."""
LONGEST_SKIP_SECONDS = 5.0
"""Seconds without a frame after which the end is assumed: a server that delivers a file may have stopped."""


def open_video(path: Path) -> Capture:
    """Open a video file through FFmpeg. Raises SourceError."""
    prepare_opencv()
    try:
        with openable(path) as name:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
            if capture.isOpened() and path.suffix.lower() in CHANGEABLE:
                return TrueSizeVideo(capture, name)
    except OSError as error:
        raise SourceError(f"cannot read {printable(path)}: {error.strerror}") from None
    if not capture.isOpened():
        raise SourceError(
            f"cannot read {printable(path)}: neither an image nor a video that OpenCV can decode, or its end is missing"
        )
    return capture


class VideoFile(Source):
    """A finite video, decoded frame by frame into as many images as it lends.

    Frames that cannot be decoded are skipped, counted in `dropped` and reported with their position in the video.
    `opener` opens the video; `capture` is its result if it was called already. Raises SourceError if no frame can be
    decoded.
    """

    def __init__(self, name: str, opener: Opener, capture: Capture | None = None) -> None:
        self.name = name
        self._opener = opener
        self._images: deque[Image | None] = deque([None])
        self._allocate: Allocator = allocate_pageable
        self._next = 0
        self._position_ns = -1
        self._shape: tuple[int, ...] = ()
        self._over = False
        self._capture = capture or opener()
        self.fps = frame_rate(self._capture)
        total = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.total = total if total > 0 else None

    def read(self) -> Frame | None:
        while not self._over and self._grab():
            index, self._next = self._next, self._next + 1
            time_ns = time.monotonic_ns()
            decoded, image = self._capture.retrieve(self._images[0])
            if decoded and image.size:
                image = stored(image, self._images.popleft(), self._allocate)
                self._images.append(image)
                frame = Frame(image, time_ns, index, self.name, position_ns=self._position())
                self._note_size(image)
                return frame
            self.dropped += 1
        if not self._over:
            self._end()
        return None

    def _grab(self) -> bool:
        """Advance to the next frame that can be decoded. Returns False at the end."""
        limit, started = max(LEAST_ATTEMPTS, (self.total or 0) - self._next), time.monotonic()
        for missing in range(limit):
            if self._capture.grab():
                if missing:
                    self._report_damage(missing)
                return True
            if time.monotonic() - started > LONGEST_SKIP_SECONDS:
                break
        return False

    def _report_damage(self, missing: int) -> None:
        first, self._next = self._next, self._next + missing
        self.dropped += missing
        start, end = max(0, self._position_ns) / 1e9, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        log.warning(
            "%s is damaged between %.1f s and %.1f s: frames %d to %d cannot be decoded",
            *(self.name, start, end, first, self._next - 1),
        )

    def _position(self) -> int:
        """Return when the current frame is shown; by the nominal rate if the container has no times or they go
        backwards.
        """
        position = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        if position <= self._position_ns:
            position = self._position_ns + round(1e9 / (self.fps or 30.0))
        self._position_ns = max(0, position)
        return self._position_ns

    def _note_size(self, image: Image) -> None:
        if self._shape and image.shape != self._shape:
            size = f"{image.shape[1]}x{image.shape[0]}"
            log.warning("%s: images are %s from %.1f s on", self.name, size, self._position_ns / 1e9)
        self._shape = image.shape

    def lend(self, most: int, memory: Allocator) -> None:
        if (most, memory) != (self.lends, self._allocate):
            self.lends, self._allocate, self._images = most, memory, deque([None] * most)

    def _end(self) -> None:
        self.close()
        if self._next == self.dropped:
            raise SourceError(f"{self.name}: none of its frames can be decoded; is the file complete?")
        # Containers that only estimate their number of frames are wrong by one or two.
        if self.total is not None and self._next + 2 < self.total:
            log.warning("%s ends early: found %d frames of %d", self.name, self._next, self.total)

    def reopen(self) -> None:
        self.close()
        self._capture = self._opener()
        self._next = self.dropped = 0
        self._position_ns, self._shape = -1, ()
        self._over = False

    def close(self) -> None:
        self._over = True
        self._capture.release()
