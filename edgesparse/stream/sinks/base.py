"""The interface between the frame loop and everything that takes its results."""

from __future__ import annotations

from abc import abstractmethod

from edgesparse.closing import Closing
from edgesparse.runtime.detections import Detections
from edgesparse.stream.frames import Frame


class Sink(Closing):
    """Takes frames and the objects detected in them. A context manager that closes itself. Used from one thread. The
    constructor checks what can be checked early: names, permissions, existing files. Every method may raise SinkError.
    """

    wants_stop: bool = False
    """Whether no more frames are needed: the window was closed, or a pipe's reader is gone."""

    @abstractmethod
    def write(self, frame: Frame, detections: Detections) -> None:
        """Take one frame and its detections, whose boxes are in the frame's pixels. Must not keep `frame.image`."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was written. May be called more than once."""
