"""The interface between the frame loop and everything that delivers frames."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

from edgesparse.closing import Closing
from edgesparse.stream.frames import Allocator, Frame

State = Literal["live", "opening", "waiting", "away", "paused"]
"""`opening`: not connected yet; `waiting`: connected, waiting for a key frame; `live`: frames arrive; `away`: they do
not, and the source is opened again until they do; `paused`: a camera of the loop from which no frame is taken."""


class Source(Closing):
    """The frames of one camera, video or folder of images. A context manager that closes itself, and an iterable over
    its frames. Used from one thread.

    `read` and `reopen` raise SourceError if something cannot be opened or decoded, and CameraUnavailable, a
    SourceError, if a camera does not answer. Messages never contain credentials.
    """

    name: str
    """Name in messages and outputs. Contains no credentials."""
    live: bool = False
    """Whether the newest frame replaces older ones. Otherwise every frame is delivered."""
    fps: float = 0.0
    """Nominal frames per second; 0 if unknown."""
    total: int | None = None
    """Number of frames; None if unknown or endless."""
    dropped: int = 0
    """Frames captured but not delivered so far."""
    reopened: int = 0
    """How often a live source has been reopened so far."""
    state: State = "live"
    why: str = ""
    """Why it is not live, without credentials."""
    since_ns: int = 0
    """When the current state began, on the clock of `time.monotonic_ns`."""
    newest_ns: int = 0
    """When the newest frame was captured, delivered or not; 0 before the first."""
    awake: threading.Event | None = None
    """Set by a live source whenever it has a new frame."""
    lends: int = 1
    """How many of the frames delivered last remain valid at the same time."""

    @abstractmethod
    def read(self) -> Frame | None:
        """Return the next frame, the newest one if live, or None at the end. Blocks until a frame is available."""

    def poll(self) -> Frame | None:
        """Return a live source's newest frame without blocking, or None if it was already delivered. Other sources
        return their next frame, or None at the end."""
        return self.read()

    def lend(self, most: int, memory: Allocator) -> None:
        """Keep up to `most` delivered frames valid at a time, in images from `memory`, for a detector with several
        batches in flight. Updates `lends`. Frames that were delivered before remain valid.
        """

    def watch(self) -> None:
        """Detect a stall. Call it at least twice per second on a live source, unless a thread blocks in `read`."""

    @abstractmethod
    def reopen(self) -> None:
        """Start over: a file at its first frame, a camera with a new connection."""

    def leave(self) -> None:
        """Start closing, without waiting for completion."""

    @abstractmethod
    def close(self) -> None:
        """Free everything within about a second. May be called more than once."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame
