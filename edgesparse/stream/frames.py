"""The seams of a stream: a Source yields Frames, a Sink takes them with what was detected in them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy.typing as npt

from edgesparse.runtime.detections import Detections

Image = npt.NDArray[Any]
"""BGR uint8 [H, W, 3]."""

Memory = Callable[[tuple[int, ...]], Image]
"""Gives memory for a frame of a shape, whatever is in it; from any thread."""


@dataclass(slots=True)
class Frame:
    """`image`: BGR uint8 [H, W, 3], left alone until its source has given `lends` frames more. `time_ns`: when it was
    captured, on `time.monotonic_ns`'s clock. `index`: 0, 1, 2 ... as captured; a gap is dropped frames. `name`: the
    source's name, or the image's file name where the source is a folder or a glob. `source`: the camera's name in the
    loop."""

    image: Image
    time_ns: int
    index: int
    name: str
    source: str = ""


State = Literal["live", "opening", "away"]


class Source(ABC):
    """Frames of one camera, video or folder. A context manager, iterable over its frames; used from one thread."""

    name: str
    """What messages and outputs call it; never holds credentials."""
    live: bool = False
    """Whether the newest frame wins and others are dropped; else every frame is delivered."""
    fps: float = 0.0
    """Nominal frames a second, 0 when unknown."""
    total: int | None = None
    """Frames in all; None when unknown or endless."""
    dropped: int = 0
    """Frames that were captured and never delivered, so far."""
    reopened: int = 0
    """How often a live source had to be opened again, so far."""
    state: State = "live"
    """`opening` until there is a first frame, `away` while there are none."""
    why: str = ""
    """Why it is not live, in words without credentials."""
    since_ns: int = 0
    """When the state began, on `time.monotonic_ns`'s clock."""
    newest_ns: int = 0
    """When the newest frame was captured, taken or not; 0 before there is one."""
    awake: threading.Event | None = None
    """Set when a live source has a new frame."""
    lends: int = 1
    """How many of its frames are left alone at once, the newest ones."""

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame, the newest one if live; None at the end. Blocks until there is one. Raises SourceError."""

    def poll(self) -> Frame | None:
        """The newest frame of a live source, None when it was taken already; a file's next, None at the end."""
        return self.read()

    def lend(self, most: int, memory: Memory) -> None:  # noqa: B027 - one that cannot lends one frame at a time
        """From now on leave that many frames alone at once (`lends`), in memory from `memory`, for a detector that is
        busy with more than one. What was given before is not touched again."""

    def watch(self) -> None:  # noqa: B027 - a file has nothing to watch
        """Notice what has stopped. Whoever has a live source calls it at least twice a second, or waits in `read`."""

    @abstractmethod
    def reopen(self) -> None:
        """Start again: a file from its first frame, a camera with a new connection. Raises SourceError."""

    def leave(self) -> None:  # noqa: B027 - nor to wait for
        """Begin to close, without waiting for it."""

    @abstractmethod
    def close(self) -> None:
        """Free everything, within about a second; calling it again does nothing."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sink(ABC):
    """Takes frames with what was detected in them. A context manager; used from one thread.

    Making one checks what can be checked early; everything it does may raise SinkError."""

    wants_stop: bool = False
    """Whether nobody wants more: the window was closed, the reader of a pipe has gone."""

    @abstractmethod
    def write(self, frame: Frame, detections: Detections) -> None:
        """Take one frame. Keeps nothing of `frame.image`."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was written; calling it again does nothing."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
