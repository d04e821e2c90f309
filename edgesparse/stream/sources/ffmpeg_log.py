"""FFmpeg's log of opening and decoding. OpenCV does not pass it on, but can print it on standard output."""

from __future__ import annotations

import ctypes
import os

_DEBUG = 48
"""FFmpeg's AV_LOG_DEBUG."""


def enable() -> bool:
    """Make OpenCV print FFmpeg's log; call it before OpenCV is used. Returns whether it does. Not if the environment
    already enables it, since then a user wants to read it.
    """
    if "OPENCV_FFMPEG_DEBUG" in os.environ:
        return False
    os.environ.update(OPENCV_FFMPEG_DEBUG="1", OPENCV_FFMPEG_LOGLEVEL=str(_DEBUG))
    return True


class FfmpegLog:
    """Keeps in memory what this process prints on standard output, which must not be used for anything else."""

    def __init__(self) -> None:
        self._file = os.memfd_create("ffmpeg")
        os.dup2(self._file, 1)
        self._flush = ctypes.CDLL(None).fflush

    def size(self) -> int:
        """Return the number of bytes printed since the last call of `take`."""
        self._flush(None)
        return os.fstat(self._file).st_size

    def peek(self, start: int = 0) -> bytes:
        """Return what was printed since the last call of `take`, from `start` on."""
        return os.pread(self._file, self.size() - start, start) if self.size() > start else b""

    def take(self) -> bytes:
        """Return what was printed and clear it."""
        text = self.peek()
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)
        return text


class _Current:
    log: FfmpegLog | None = None


def start() -> FfmpegLog:
    """Start keeping this process's log."""
    _Current.log = FfmpegLog()
    return _Current.log


def taken_so_far() -> str:
    """Return what FFmpeg logged since the last call; empty unless this process keeps it."""
    return "" if _Current.log is None else _Current.log.take().decode("utf-8", "replace")
