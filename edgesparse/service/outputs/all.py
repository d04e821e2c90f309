"""All outputs of the service behind one Sink of the frame loop. A reload can change them while frames flow."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.device import state_folder
from edgesparse.errors import ConfigError, SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.service.credentials import fingerprint
from edgesparse.service.in_view import InView
from edgesparse.service.outputs.base import FrameResult, Output, OutputContext, OutputState, Scene
from edgesparse.service.outputs.events import Event, EventRule, EventRules, Phase
from edgesparse.service.outputs.table import OUTPUTS
from edgesparse.service.settings import ServiceSettings
from edgesparse.service.snapshots import SnapshotEncoder
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.supervised import close_all

log = logging.getLogger("edgesparse.service")

CLOSE_SECONDS = 4.0
RECENT = 50
_SHOWN = ("event", "id", "type", "camera", "time", "seconds")


class Outputs(Sink):
    """The outputs that the settings name. `write` and `tick` are called in the frame loop's thread, `change` in one
    other thread.

    A failing output never stops the frame loop. If opening raises ConfigError or SinkError, nothing is left open.
    """

    def __init__(self, settings: ServiceSettings, scene: Scene, snapshots: SnapshotEncoder) -> None:
        self.snapshots = snapshots
        self.paused: dict[str, int] = {}
        """As in OutputContext."""
        self.reports: Counter[tuple[str, str, Phase]] = Counter()
        """Number of reports of events so far, by camera, event and phase."""
        self.recent: deque[dict[str, object]] = deque(maxlen=RECENT)
        """The newest reports of events, without detections, newest first."""
        self._settings = ServiceSettings()
        self._names: Sequence[str] = ()
        self._scene = Scene()
        self._rules = EventRules((), ())
        self._events: Sequence[EventRule] = ()
        """Those of `_rules`."""
        self._retired: deque[EventRules] = deque()
        """Former rules whose events have not ended yet."""
        self._announced: deque[Event] = deque()
        self._open: dict[str, Output] = {}
        self._timed: Sequence[Output] = ()
        self._fingerprints: dict[str, tuple[Any, ...]] = {}
        self._error = ""
        try:
            self.change(settings, scene)
        except BaseException:
            self.close()
            raise

    def change(self, settings: ServiceSettings, scene: Scene) -> None:
        """Apply new settings, cameras or class names; outputs that did not change stay open.

        Raises ConfigError and SinkError; the previous outputs are then open again.
        """
        rules, previous = EventRules(settings.events, scene.names), self._settings
        if (settings.events, scene.names) != (self._events, self._names):  # otherwise events in progress go on
            self._take(rules, scene.names)
            self._events = settings.events
        try:
            self._reopen(settings)
        except (ConfigError, SinkError):
            self._reopen(previous, keep_going=True)
            raise
        self._settings = settings
        self.show(scene)

    def show(self, scene: Scene) -> None:
        """Tell all outputs which cameras there are; class names and settings are the same as before."""
        scene = replace(scene, rules=self._settings.events)
        self._scene = scene
        for output in self._open.values():
            output.scene(scene)

    def between_engines(self) -> None:
        """Drop class names and rules until `change` is called."""
        self._take(EventRules((), ()), ())

    def _take(self, rules: EventRules, names: Sequence[str]) -> None:
        self._retired.append(self._rules)
        self._rules, self._names = rules, names

    def _reopen(self, settings: ServiceSettings, keep_going: bool = False) -> None:
        context = self._context(settings)
        self.snapshots.listeners, self.snapshots.continuous = (), False
        self._timed = ()
        try:
            for name, kind in OUTPUTS.items():
                with _logged(name) if keep_going else nullcontext():
                    self._reopen_one(name, kind, settings, context)
        finally:
            outputs = self._open.values()
            self._timed = tuple(output for output in outputs if output.wants_times)
            self.snapshots.continuous = any(output.uses_snapshots for output in outputs)
            self.snapshots.listeners = tuple(
                output.snapshot for output in outputs if output.uses_snapshots or output.snapshots_events
            )

    def _reopen_one(self, name: str, kind: type[Output], settings: ServiceSettings, context: OutputContext) -> None:
        section = settings.outputs.get(name)
        current = fingerprint(section)
        if section is not None and kind.uses_snapshots:
            current = (*current, settings.snapshots)
        if current == self._fingerprints.get(name, ()):
            return
        output = self._open.get(name)
        self._open = {key: other for key, other in self._open.items() if key != name}
        self._fingerprints.pop(name, None)
        if output is not None:
            output.close()
        if section is not None:
            self._open = {**self._open, name: kind(section, context)}
            self._fingerprints[name] = current

    def states(self) -> list[OutputState]:
        """Return the state of each open output."""
        outputs = self._open
        return [outputs[name].state for name in OUTPUTS if name in outputs]

    def write(self, frame: Frame, detections: Detections) -> None:
        try:
            result = FrameResult(frame, detections, self._names)
            events = self._rules(frame, detections)
        except Exception as error:
            self._report(error, frame.source)
            return
        for output in self._open.values():
            with self._guard(output):
                output.detections(result)
        if events:
            self._send(events)
            if any(output.snapshots_events for output in self._open.values()):
                self.snapshots.request(frame.source)

    def frame_times(self, frame: Frame, detections: Detections, row: NDArray[np.int64]) -> None:
        """Pass on the durations of a frame, as the Observer of the frame loop gets them."""
        for output in self._timed:
            with self._guard(output):
                output.frame_times(frame, detections, row)

    def tick(self, now_ns: int, live: Collection[str]) -> None:
        """Report what needs no frame: ends of events, and what outputs announced. Call it several times per second.

        `now_ns`: on the monotonic clock; `live`: cameras that deliver frames."""
        while self._retired:
            self._send(self._retired.popleft().ended(now_ns, ()))
        self._send(self._rules.ended(now_ns, live))
        while self._announced:
            self._send([self._announced.popleft()])

    def announce(self, event: Event) -> None:
        """Have a report of an event sent, from any thread."""
        self._announced.append(event)

    def _send(self, events: Sequence[Event]) -> None:
        for event in events:
            self.reports[event.camera, event.name, event.phase] += 1
            self.recent.appendleft({key: event.record[key] for key in _SHOWN if key in event.record})
            for output in self._open.values():
                with self._guard(output):
                    output.event(event)

    def zones(self, camera: str) -> tuple[str, ...]:
        """Return the names of a camera's zones."""
        return next((tuple(known.zones) for known in self._scene.cameras if known.name == camera), ())

    def in_view(self, camera: str, counts: InView) -> None:
        """Pass on what a camera sees."""
        for output in self._open.values():
            with self._guard(output):
                output.in_view(camera, counts)

    def status(self, status: Mapping[str, Any]) -> None:
        """Pass on the state of the service."""
        for output in self._open.values():
            with self._guard(output):
                output.status(status)

    @contextmanager
    def _guard(self, output: Output) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # re-raised, it would count as a failed inference
            output.state.failed += 1
            self._report(error, output.state.name)

    def _report(self, error: Exception, where: str) -> None:
        if repr(error) != self._error:
            self._error = repr(error)
            log.exception("outputs: %s", where)

    def free(self) -> None:
        """Release memory that can be rebuilt."""
        for output in tuple(self._open.values()):
            output.free()

    def close(self) -> None:
        """End all events and close all outputs in parallel, within CLOSE_SECONDS. The frame loop has ended."""
        self._take(EventRules((), ()), ())
        self.tick(time.monotonic_ns(), ())
        self.snapshots.listeners, self.snapshots.continuous = (), False
        self._timed = ()
        outputs, self._open = tuple(self._open.values()), {}
        close_all([output.close for output in outputs], CLOSE_SECONDS)

    def _context(self, settings: ServiceSettings) -> OutputContext:
        device = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
        return OutputContext(state_folder(), device, settings.snapshots, self.paused, self.announce)


@contextmanager
def _logged(name: str) -> Iterator[None]:
    try:
        yield
    except (ConfigError, SinkError) as error:
        log.error("%s: cannot be opened again: %s", name, error)
