"""OpenCV's process-wide settings, and file names that it can open."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2


@functools.cache
def prepare_opencv() -> None:
    """Keep messages of OpenCV and FFmpeg off standard error, and limit V4L2's wait for a frame to two seconds.

    Settings in the environment take precedence."""
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    set_level = getattr(logging, "setLogLevel", None) or getattr(cv2, "setLogLevel", None)
    if set_level is not None:
        set_level(0)


@contextmanager
def openable(path: Path) -> Iterator[str]:
    """Return a name under which OpenCV can open an existing file: its bindings crash on a name that is not UTF-8.
    Raises OSError if such a file cannot be opened.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        yield str(path)
