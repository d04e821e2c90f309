"""All outputs of the service behind one Sink of the frame loop. A reload can change them while frames flow."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from edgesparse.device import state_folder
from edgesparse.errors import ConfigError, SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.service.credentials import fingerprint
from edgesparse.service.outputs.base import FrameResult, Output, OutputContext, OutputState
from edgesparse.service.outputs.events import Event, EventRules
from edgesparse.service.outputs.table import OUTPUTS
from edgesparse.service.settings import ServiceSettings
from edgesparse.service.snapshots import SnapshotEncoder
from edgesparse.service.supervised import close_all
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink

log = logging.getLogger("edgesparse.service")

CLOSE_SECONDS = 4.0


class Outputs(Sink):
    """The outputs that the settings name. `write` is called in the frame loop's thread, `change` in one other thread.
    An output that fails never stops the frame loop. Opening them raises ConfigError or SinkError and then leaves
    nothing open.
    """

    def __init__(self, settings: ServiceSettings, names: Sequence[str], snapshots: SnapshotEncoder) -> None:
        self._snapshots = snapshots
        self._settings = ServiceSettings()
        self._names: Sequence[str] = ()
        self._rules = EventRules((), ())
        self._open: dict[str, Output] = {}
        self._fingerprints: dict[str, tuple[Any, ...]] = {}
        self._error = ""
        try:
            self.change(settings, names)
        except BaseException:
            self.close()
            raise

    def change(self, settings: ServiceSettings, names: Sequence[str]) -> None:
        """Apply new settings, or another engine's class names; outputs that did not change stay open.

        Raises ConfigError and SinkError; the previous outputs are open again then.
        """
        rules, previous = EventRules(settings.events, names), self._settings
        self._rules, self._names = rules, names
        try:
            self._reopen(settings)
        except (ConfigError, SinkError):
            self._reopen(previous, keep_going=True)
            raise
        self._settings = settings

    def between_engines(self) -> None:
        """Drop class names and rules until `change` is called."""
        self._rules, self._names = EventRules((), ()), ()

    def _reopen(self, settings: ServiceSettings, keep_going: bool = False) -> None:
        context = _context(settings)
        self._snapshots.listeners = ()
        try:
            for name, kind in OUTPUTS.items():
                with _logged(name) if keep_going else nullcontext():
                    self._reopen_one(name, kind, settings, context)
        finally:
            self._snapshots.listeners = tuple(
                output.snapshot for output in self._open.values() if output.uses_snapshots
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
        outputs = tuple(self._open.values())
        if not outputs:
            return
        try:
            result = FrameResult(frame, detections, self._names)
            events = self._rules(frame, detections)
        except Exception as error:
            self._report(error, frame)
            return
        for output in outputs:
            self._pass(output, result, events)

    def _pass(self, output: Output, result: FrameResult, events: Sequence[Event]) -> None:
        try:
            output.detections(result)
            for event in events:
                output.event(event)
        except Exception as error:  # re-raised, it would count as a failed inference
            output.state.failed += 1
            self._report(error, result.frame)

    def _report(self, error: Exception, frame: Frame) -> None:
        if repr(error) != self._error:
            self._error = repr(error)
            log.exception("outputs: %s", frame.source)

    def free(self) -> None:
        """Release memory that can be rebuilt."""
        for output in tuple(self._open.values()):
            output.free()

    def close(self) -> None:
        """Close all of them in parallel, within CLOSE_SECONDS."""
        self._snapshots.listeners = ()
        outputs, self._open = tuple(self._open.values()), {}
        close_all([output.close for output in outputs], CLOSE_SECONDS)


@contextmanager
def _logged(name: str) -> Iterator[None]:
    try:
        yield
    except (ConfigError, SinkError) as error:
        log.error("%s: cannot be opened again: %s", name, error)


def _context(settings: ServiceSettings) -> OutputContext:
    device = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
    return OutputContext(state_folder(), device, settings.snapshots)
