"""Where the service's detections go: one Sink for the frame loop, with targets that change when it is reloaded."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from logging.handlers import RotatingFileHandler

from edgesparse.device import state_folder
from edgesparse.errors import ConfigError, SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.service.outputs.base import Output
from edgesparse.service.outputs.clips import Clips
from edgesparse.service.outputs.events import Happening, Rules
from edgesparse.service.outputs.mqtt import Mqtt
from edgesparse.service.outputs.webhook import Webhook
from edgesparse.service.settings import Lines as LinesSaid
from edgesparse.service.settings import Service
from edgesparse.service.snapshots import Snapshots
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.base import Sink
from edgesparse.stream.sinks.json_lines import frame_record
from edgesparse.stream.sinks.writing import failing

log = logging.getLogger("edgesparse.service")


class _Turned(RotatingFileHandler):
    failed = 0

    def handleError(self, record: logging.LogRecord) -> None:
        self.failed += 1


class Lines:
    """JSON lines into a file that is turned over: FILE becomes FILE.1. Raises SinkError when it cannot be written."""

    def __init__(self, said: LinesSaid) -> None:
        self.output = Output("jsonl")
        with failing(said.file):
            said.file.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _Turned(said.file, maxBytes=said.most, backupCount=1, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def put(self, said: dict[str, object]) -> None:
        failed = self._handler.failed
        self._handler.handle(logging.LogRecord("", logging.INFO, "", 0, json.dumps(said), None, None))
        self.output.failed = self._handler.failed
        self.output.sent += self.output.failed == failed

    def close(self) -> None:
        with suppress(OSError):
            self._handler.close()


class Outputs(Sink):
    """All that the settings name. `write` is called in the frame loop's thread, `change` in any one other. An
    output that fails is no reason to stop. Raises ConfigError and SinkError when made; nothing is open then."""

    def __init__(self, said: Service, names: Sequence[str], snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._names: Sequence[str] = ()
        self._rules = Rules((), ())
        self._said = Service()
        self._error = ""
        self._lines: Lines | None = None
        self._mqtt: Mqtt | None = None
        self._webhook: Webhook | None = None
        self._clips: Clips | None = None
        try:
            self.change(said, names)
        except BaseException:
            self.close()
            raise

    def change(self, said: Service, names: Sequence[str]) -> None:
        """Other settings, or another engine's classes; what has not changed stays open. Raises as the making does; the
        same places are open then as before."""
        rules, before = Rules(said.events, names), self._said
        self._rules, self._names = rules, names
        try:
            self._reopen(said)
        except (ConfigError, SinkError):
            self._reopen(before)
            raise

    def between_engines(self) -> None:
        """Until `change`, classes have no names, and nothing happens."""
        self._rules, self._names = Rules((), ()), ()

    def _reopen(self, said: Service) -> None:
        before, self._said, state = self._said, said, state_folder()
        if said.jsonl != before.jsonl:
            old_lines, self._lines = self._lines, None
            _close(old_lines)
            self._lines = Lines(said.jsonl) if said.jsonl else None
        if said.mqtt != before.mqtt:
            old_mqtt, self._mqtt = self._mqtt, None
            _close(old_mqtt)
            device = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
            self._mqtt = Mqtt(said.mqtt, state / "spool" / "mqtt.sqlite", device) if said.mqtt else None
        if said.webhook != before.webhook:
            old_webhook, self._webhook = self._webhook, None
            _close(old_webhook)
            self._webhook = Webhook(said.webhook) if said.webhook else None
        if (said.clips, said.snapshots) != (before.clips, before.snapshots):
            self._snapshots.listeners = ()
            old_clips, self._clips = self._clips, None
            _close(old_clips)
            if said.clips is not None:
                self._clips = Clips(said.clips, said.clips.folder or state / "clips", said.snapshots.fps)
                self._snapshots.listeners = (self._clips.snapshot,)

    def states(self) -> list[Output]:
        """How each fares."""
        return [part.output for part in (self._lines, self._mqtt, self._webhook, self._clips) if part is not None]

    def write(self, frame: Frame, detections: Detections) -> None:
        try:
            self._write(frame, detections)
        except Exception as error:  # else it would pass for an inference that failed
            if repr(error) != self._error:
                self._error = repr(error)
                log.exception("outputs: %s", frame.source)

    def _write(self, frame: Frame, detections: Detections) -> None:
        lines, mqtt = self._lines, self._mqtt
        tell = mqtt is not None and (self._said.mqtt is None or self._said.mqtt.empty or len(detections) > 0)
        if lines is not None or tell:
            said = frame_record(frame, detections, self._names)
            if lines is not None:
                lines.put(said)
            if mqtt is not None and tell:
                mqtt.put(f"{frame.source}/detections", said)
        for happening in self._rules(frame, detections):
            self._tell(happening)

    def _tell(self, happening: Happening) -> None:
        clips, webhook, mqtt = self._clips, self._webhook, self._mqtt
        if clips is not None:
            clips.happened(happening)
        if webhook is not None:
            webhook.put(happening)
        if mqtt is not None:
            mqtt.put(f"{happening.camera}/events", happening.record)

    def free(self) -> None:
        """Let go of what takes memory and can be had again."""
        if (clips := self._clips) is not None:
            clips.free()

    def close(self) -> None:
        """Finish all of them at the same time, within about four seconds."""
        self._snapshots.listeners = ()
        parts = [part for part in (self._clips, self._lines, self._mqtt, self._webhook) if part is not None]
        self._clips = self._lines = self._mqtt = self._webhook = None
        threads = [threading.Thread(target=part.close, daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4.0)


def _close(part: Lines | Mqtt | Webhook | Clips | None) -> None:
    if part is not None:
        part.close()
