"""Once per second, in its own thread: reads the board, governs the rate, writes and reports the state."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgesparse.files import replace_text
from edgesparse.redaction import redact_all
from edgesparse.service.engine import Identity, LoadedEngine
from edgesparse.service.health import Health
from edgesparse.service.limits import Governor
from edgesparse.service.machine import Reading, Sensors
from edgesparse.service.monitor.all import Monitors
from edgesparse.service.notify import Notify
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.snapshots import SnapshotEncoder
from edgesparse.service.tally import Tally, milliseconds
from edgesparse.stream.cameras import CameraStatus
from edgesparse.stream.requests import Requests
from edgesparse.stream.totals import totals
from edgesparse.supervised import Supervised, thread_states

log = logging.getLogger("edgesparse.service")

HISTORY = 180
"""Seconds that the web page's plots cover."""
RATE_SECONDS = 5
"""Seconds over which rates are averaged."""


class Report:
    """The state of the service, read from any thread. `engine` changes with a reload."""

    def __init__(
        self,
        engine: LoadedEngine,
        health: Health,
        tally: Tally,
        governor: Governor,
        snapshots: SnapshotEncoder,
        outputs: Outputs,
    ) -> None:
        self.engine, self.health, self.tally, self.governor = engine, health, tally, governor
        self.snapshots, self.outputs = snapshots, outputs
        self.requests: Requests | None = None
        """Images of HTTP clients that wait for the engine; None until the frame loop exists."""
        self.monitors: Monitors | None = None
        """What watches for drift; None until it is open."""
        self.refusals: dict[int, int] = {}
        """Refused requests of HTTP clients, by status."""
        self.reloads = {"done": 0, "refused": 0}
        self.reading = Reading()
        self.started, self._began = time.time(), time.monotonic()
        """By the clock of that moment, which NTP may have set since: it identifies this start. See `uptime`."""
        self.joules: float | None = None
        """Energy of the board since the service started; None if the board does not report its power."""
        self._measured_at = 0.0
        self.refusal = ""
        """Why the last reload was refused; empty if it was not."""
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._counts: deque[tuple[float, dict[str, int]]] = deque(maxlen=RATE_SECONDS + 1)
        self._seen = 0

    @property
    def uptime(self) -> float:
        """Seconds since the service started."""
        return time.monotonic() - self._began

    @property
    def identity(self) -> Identity:
        return self.engine.identity

    def reloaded(self, refusal: str) -> None:
        """Record a reload. `refusal`: why it was refused, empty if it succeeded."""
        self.refusal = f"reload refused: {refusal}" if refusal else ""
        self.reloads["refused" if refusal else "done"] += 1

    def rates(self) -> dict[str, float]:
        """Return each camera's results per second, averaged over the last RATE_SECONDS."""
        if len(self._counts) < 2:
            return {}
        (then, before), (now, after) = self._counts[0], self._counts[-1]
        return {name: round(max(0, count - before.get(name, 0)) / (now - then), 1) for name, count in after.items()}

    def update(self, sensors: Sensors) -> None:
        """Do the work of one second."""
        self.reading = sensors.read()
        self._add_energy()
        cameras = self.health.cameras
        self._counts.append((time.monotonic(), {camera.name: camera.frames for camera in cameras}))
        self.health.outputs(self.tally.total, dict(self.engine.detector.faults))
        self.governor.read(self.reading, sum(self.rates().values()))
        free = self.reading.available
        self.snapshots.paused = free is not None and free < self.governor.limits.memory
        if self.monitors is not None:
            self.monitors.paused = self.snapshots.paused
            self.monitors.tick()
        if self.snapshots.paused:
            self.snapshots.free()
            self.outputs.free()
        self.history.append(self._point(cameras))
        live = [camera.name for camera in cameras if camera.state == "live"]
        for name, counts in self.tally.in_view.settle(live).items():
            self.outputs.in_view(name, counts)
        self.outputs.status(self.status())

    def _add_energy(self) -> None:
        """Integrate the power, assuming that it has been constant since the last reading."""
        now, watts = time.monotonic(), self.reading.watts
        if watts is not None:
            self.joules = (self.joules or 0.0) + (watts * (now - self._measured_at) if self._measured_at else 0.0)
            self._measured_at = now

    def joules_per_frame(self) -> float | None:
        """Return the board's power divided by the rate of all cameras; None if either is unknown or 0."""
        rate = sum(self.rates().values())
        return self.reading.watts / rate if self.reading.watts and rate else None

    def _point(self, cameras: Sequence[CameraStatus]) -> dict[str, Any]:
        """Return the plots' newest point, in milliseconds: latency of the detector, age of each camera's frames."""
        recent = self.tally.recent(self._seen)
        self._seen = self.tally.frames
        ages = {}
        for camera in cameras:
            if (number := self.tally.number(camera.name)) is not None:
                percentiles = milliseconds(recent.age[recent.camera == number], 99)
                ages[camera.name] = percentiles[0] if percentiles else None
        latency = milliseconds(recent.latency, 50, 99)
        return {
            "t": time.monotonic(),
            "latency": list(latency) or [None, None],
            "age": ages,
            "objects": self._objects(),
        }

    def _objects(self) -> dict[str, int]:
        """Return the number of objects in view of each camera."""
        return {name: sum(view.per_zone()[""].values()) for name, view in self.tally.in_view.now().items()}

    def words(self) -> str:
        """Return the state in one line, for `systemctl status`."""
        judgement, rates = self.health.judge(), self.rates()
        live = sum(camera.state == "live" for camera in self.health.cameras)
        parts = [judgement.why] if judgement.why else []
        parts += [f"fallback {self.identity.precision} runs"] if self.identity.fallback else []
        parts += (
            [f"slowed to {100 * self.governor.share:.0f} %: {self.governor.why}"] if self.governor.share < 1 else []
        )
        parts += [self.refusal] if self.refusal else []
        parts += [f"{output.name}: {output.storage}" for output in self.outputs.states() if output.storage]
        parts += self.monitors.words() if self.monitors is not None else []
        failed = (thread for thread in thread_states() if thread.why and not thread.down)
        parts += [f"thread {thread.name} was restarted: {thread.why}" for thread in failed]
        if self.health.loading:
            return "; ".join(parts)
        counts = f"{sum(rates.values()):.0f} frames/s from {live} of {len(self.health.cameras)} cameras"
        return "; ".join((f"{counts}, {self.identity.candidate} on {self.identity.backend}", *parts))

    def status(self) -> dict[str, Any]:
        """Return the contents of status.json."""
        judgement, rates, reading, hottest = self.health.judge(), self.rates(), self.reading, self.reading.hottest
        latency, monitors = milliseconds(self.tally.recent().latency, 50, 99), self.monitors
        return {
            **{key: getattr(self.identity, key) for key in ("package", "model", "backend", "precision")},
            "pid": os.getpid(),
            "started": round(self.started, 3),
            "uptime_s": round(self.uptime, 1),
            "time": round(time.time(), 3),
            "ready": self.health.up,
            "healthy": judgement.alive,
            "detecting": judgement.detecting,
            "why": judgement.why or (self.identity.notice if self.identity.fallback else ""),
            "words": self.words(),
            "frames": self.tally.frames,
            "errors": self.health.errors,
            "invalid_boxes": self.engine.detector.dropped,
            "fallback": self.identity.fallback,
            "cameras": [_camera(camera, rates) for camera in self.health.cameras],
            "latency_ms": dict(zip(("p50", "p99"), latency, strict=False)),
            "memory_mb": None if reading.resident is None else round(reading.resident / 1e6, 1),
            "memory_free_mb": None if reading.available is None else round(reading.available / 1e6, 1),
            "temperature_c": hottest[1] if hottest else None,
            "watts": reading.watts,
            "drift": monitors.states() if monitors is not None else {},
            "shadow": monitors.shadow_state() if monitors is not None else None,
            "hard_frames": monitors.hard_state() if monitors is not None else None,
            "rate_share": round(self.governor.share, 3),
            "threads": [asdict(thread) for thread in thread_states()],
            "outputs": [asdict(output) for output in self.outputs.states()],
        }

    def live(self) -> dict[str, Any]:
        """Return what the web page shows."""
        ahead = time.time() - time.monotonic()
        engine = {key: value for key, value in asdict(self.identity).items() if key != "classes"}
        return {
            **self.status(),
            "engine": engine,
            "limit": self.governor.why,
            "refused": self.refusal,
            "history": [{**point, "t": round(point["t"] + ahead, 1)} for point in self.history],
            "in_view": {
                name: view.record(self.identity.classes, self.outputs.zones(name))
                for name, view in self.tally.in_view.now().items()
            },
            "counted": {
                name: totals(counts, self.identity.classes)
                for name, counts in list(self.tally.counts.items())
                if counts.tracked
            },
            "events": list(self.outputs.recent),
        }


def _camera(camera: CameraStatus, rates: Mapping[str, float]) -> dict[str, Any]:
    return {
        **{key: getattr(camera, key) for key in ("name", "source", "state", "why", "frames", "dropped", "reopened")},
        "fps": rates.get(camera.name, 0.0),
        "age_ms": round(camera.age_ns / 1e6, 1),
        "since_s": round((time.monotonic_ns() - camera.since_ns) / 1e9, 1) if camera.since_ns else None,
        "width": camera.width,
        "height": camera.height,
    }


class Reporter:
    """Updates the report each second and writes the state file, until `stop` is called."""

    def __init__(self, report: Report, notify: Notify, path: Path | None, each_second: Callable[[], object]) -> None:
        self._report, self._notify, self.path, self._each_second = report, notify, path, each_second
        self._stopped = threading.Event()
        self._error = ""
        self._sensors = Sensors()
        self._thread = Supervised("report", self._run)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            try:
                self._report.update(self._sensors)
                self._notify.status(self._report.words())
                self._each_second()
            finally:
                self.write()
            due = max(due + 1.0, time.monotonic())
            if self._stopped.wait(due - time.monotonic()):
                return

    def write(self) -> None:
        """Replace the state file: a reader sees the old state or the new one, never a part."""
        if self.path is None:
            return
        try:
            replace_text(self.path, json.dumps(redact_all(self._report.status())) + "\n")
            self._error = ""
        except OSError as error:
            if str(error) != self._error:
                self._error = str(error)
                log.warning("cannot write the state: %s", error)

    def stop(self) -> None:
        self._thread.leave()
        self._stopped.set()
        self._thread.join(1.0)
        self._each_second()
        self.write()
        self._sensors.close()
