"""The seam for outputs: where the service sends detections and events.

A new output is one file in this folder with a settings section and an Output, plus one line in table.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgesparse.camera import Camera, ClassFilter
from edgesparse.runtime.detections import Detections
from edgesparse.service.in_view import InView
from edgesparse.service.outputs.events import Event, EventRule
from edgesparse.service.snapshots import Snapshot, SnapshotSettings
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.json_lines import frame_text
from edgesparse.values import Section

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class OutputSettings(Section):
    """The section of an output in the service's settings.

    Paths are relative to the settings file. A key ending in `_file` names a file whose contents count too: if they
    change, a reload reopens the output.
    """

    needs_events: ClassVar[bool] = False
    """Whether the output is useless without a rule in `service.events`."""
    takes_alarms: ClassVar[bool] = False
    """Whether an alarm, which comes without a rule and without a frame, is enough."""

    def check(self, key: str) -> None:
        """Check what can be checked without opening the output. `key` is the section's, such as `service.mqtt`.
        Raises ConfigError.
        """


@dataclass(frozen=True)
class OutputContext:
    """What an output may use besides its own settings."""

    folder: Path
    """Folder for state that survives a restart."""
    device: str
    """Host name: letters, digits, dots and hyphens only."""
    snapshots: SnapshotSettings
    paused: dict[str, int] = field(default_factory=dict)
    """Cameras that are paused, by name, and since when (monotonic). An output may pause and resume them."""
    announce: Callable[[Event], None] = lambda event: None
    """Passes a report of an event to all outputs, from any thread."""


@dataclass(frozen=True)
class Scene:
    """What outputs report on: class names, cameras, the classes that all of them count, event rules, and whether
    objects are tracked."""

    names: Sequence[str] = ()
    cameras: Sequence[Camera] = ()
    classes: ClassFilter | None = None
    rules: Sequence[EventRule] = ()
    tracked: bool = False


@dataclass
class OutputState:
    """Counters and condition of an output. `waiting`: messages not delivered yet; `dropped`: messages given up on;
    `failed`: failed attempts; `state`: what is wrong, empty if nothing is; `storage`: why messages cannot be kept on
    disk, empty while they can.
    """

    name: str
    sent: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0
    state: str = ""
    storage: str = ""


Writer = Callable[[], str]
"""Returns the text of a message."""


class FrameResult:
    """One frame with its detections, as passed to every output."""

    def __init__(self, frame: Frame, detections: Detections, names: Sequence[str]) -> None:
        self.frame, self.detections, self.names = frame, detections, names

    @cached_property
    def text(self) -> str:
        """The frame as a JSON object (`frame_record`), put together once for all outputs."""
        return frame_text(self.frame, self.detections, self.names)

    def writer(self) -> Writer:
        """Return a function that puts the same text together in another thread. It keeps nothing of the image."""
        height, width = self.frame.image.shape[:2]
        frame = replace(self.frame, image=np.empty((height, width, 0), np.uint8))
        return partial(frame_text, frame, self.detections, self.names)


class Output(ABC):
    """A destination of detections, events or both.

    `detections` and `event` are called in the frame loop's thread: they never wait and never raise for a destination
    that is away. Opening one raises ConfigError or SinkError and then leaves nothing open.
    """

    settings_type: ClassVar[type[OutputSettings]]
    uses_snapshots: ClassVar[bool] = False
    """Whether snapshots of all cameras are encoded continuously and passed to `snapshot`."""
    snapshots_events: ClassVar[bool] = False
    """Whether a snapshot of the frame of each report of an event is encoded and passed to `snapshot`."""

    wants_times: ClassVar[bool] = False
    """Whether `frame_times` is called."""

    state: OutputState

    @abstractmethod
    def __init__(self, settings: Any, context: OutputContext) -> None:
        """Open it with its section of `settings_type`."""

    def scene(self, scene: Scene) -> None:  # noqa: B027 - few outputs depend on it
        """Take cameras, classes and rules: once before anything else, and whenever they may have changed."""

    def detections(self, result: FrameResult) -> None:  # noqa: B027 - an output may want events only
        """Handle one frame's detections."""

    def frame_times(  # noqa: B027 - few outputs want them
        self, frame: Frame, detections: Detections, row: NDArray[np.int64]
    ) -> None:
        """Take the durations of a frame, as the Observer of the frame loop does, in its thread."""

    def event(self, event: Event) -> None:  # noqa: B027 - an output may want detections only
        """Handle one event."""

    def in_view(self, camera: str, counts: InView) -> None:  # noqa: B027 - few outputs want them
        """Take what a camera sees, whenever that changes: an increase at once, a decrease within a second."""

    def status(self, status: Mapping[str, Any]) -> None:  # noqa: B027 - few outputs want it
        """Take the state of the service, as in status.json, once per second."""

    def snapshot(self, camera: str, snapshot: Snapshot) -> None:  # noqa: B027 - few outputs want them
        """Handle one encoded snapshot, in the encoder's thread."""

    def free(self) -> None:  # noqa: B027 - few outputs hold much
        """Release memory that can be rebuilt: the board is running out of it."""

    @abstractmethod
    def close(self) -> None:
        """Deliver what is pending, within two seconds, then release everything."""
