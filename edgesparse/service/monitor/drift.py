"""Drift: what a camera's frames show now, compared with its first week.

Single frames are sampled at an interval and measured in a thread of their own. Once per hour of observation, the newest
hours are compared with the baseline; a difference beyond the limit is an alarm, reported as an event with examples.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesparse.runtime.detections import Detections
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.frame_copies import CopiedFrame, FrameCopies
from edgesparse.service.monitor.baseline import HOUR, Baseline, prune
from edgesparse.service.monitor.distribution import QUANTITIES, Comparison, compare, measure
from edgesparse.service.monitor.drift_settings import EVENT, DriftSettings
from edgesparse.service.monitor.examples import Examples, stored_examples
from edgesparse.service.outputs.events import Event
from edgesparse.stream.frames import Frame
from edgesparse.stream.sinks.json_lines import wall_time
from edgesparse.stream.sinks.writing import writable_folder

log = logging.getLogger("edgesparse.service")

CALM = 0.8
"""Share of the limit below which an alarm ends, so that it does not flicker."""
SAVE_NS = 600_000_000_000
"""Longest observation that a power cut loses."""


class _Watched:
    """One camera with one engine. Used in the thread of the copies, under the lock of Drift."""

    def __init__(self, baseline: Baseline, examples: Examples) -> None:
        self.baseline, self.examples = baseline, examples
        self.comparisons: list[Comparison | None] = [None] * len(QUANTITIES)
        self.sampled_ns = self.counted = 0
        """When the last frame was sampled, and how many detections there had been."""
        self.saved_ns = 0
        self.stored: Sequence[Path] = ()
        """Files of the examples."""

    def drifted(self, limit: float) -> list[bool]:
        """Return for each quantity whether it has drifted; an alarm that has begun ends at a lower value."""
        limit *= CALM if self.baseline.alarm else 1.0
        return [each is not None and each.exceeds(limit) for each in self.comparisons]

    def compare(self) -> None:
        """Compare the newest hours with the baseline, once there are enough."""
        if self.baseline.full:
            rows = zip(self.baseline.baseline.bins, self.baseline.newest().bins, strict=True)
            self.comparisons = [compare(before, now) for before, now in rows]

    def state(self, limit: float) -> dict[str, Any]:
        """Return the JSON-compatible state."""
        baseline, newest = self.baseline, self.baseline.newest()
        learned = "watching" if baseline.full else "waiting"
        rows = zip(QUANTITIES, self.comparisons, baseline.baseline.bins, newest.bins, self.drifted(limit), strict=True)
        return {
            "state": "drifted" if baseline.alarm else learned if baseline.complete else "learning",
            "baseline_hours": round(min(baseline.baseline.seconds / HOUR, baseline.length), 1),
            "of_hours": baseline.length,
            "since": baseline.alarm_time or None,
            "drifted": [quantity.name for quantity, _, _, _, drifted in rows if drifted],
            "quantities": {
                quantity.name: {
                    "psi": None if each is None else round(each.psi, 3),
                    "baseline": _rounded(quantity.mean(before)),
                    "now": _rounded(quantity.mean(now)),
                }
                for quantity, each, before, now in zip(
                    QUANTITIES, self.comparisons, baseline.baseline.bins, newest.bins, strict=True
                )
            },
            "detections_per_hour": {
                "baseline": _rounded(baseline.baseline.per_hour),
                "now": _rounded(newest.per_hour),
            },
            "examples": len(self.stored),
        }


class Drift:
    """`offer` is called in the frame loop's thread, everything else in others. Raises SinkError if the folder is not
    writable. Release it with `close`.

    `counted` returns the number of detections of a camera so far; `announce` takes events.
    """

    def __init__(
        self,
        settings: DriftSettings,
        folder: Path,
        counted: Callable[[str], int],
        announce: Callable[[Event], None],
    ) -> None:
        self.settings = settings
        self._folder = writable_folder(settings.folder or folder / "drift")
        self._counted, self._announce = counted, announce
        self._interval_ns = int(settings.interval * 1e9)
        self._due: dict[str, int] = {}
        self._versions: Mapping[str, str] = {}
        self._package = ""
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self.trouble = ""
        """Why the state cannot be kept on disk; empty while it can."""
        self._copies = FrameCopies("drift", self._sampled)

    def offer(self, frame: Frame, detections: Detections) -> None:
        """Sample the frame if it is time. Never waits, never allocates memory of a frame's size."""
        if frame.time_ns >= self._due.get(frame.source, 0) and self._copies.offer(frame, detections):
            self._due[frame.source] = frame.time_ns + self._interval_ns

    def engine(self, engine: LoadedEngine) -> None:
        """Go on with the baselines of this engine and its cameras; those of others are saved."""
        versions = {camera.name: _version(engine, camera.name, self.settings) for camera in engine.run.all_cameras()}
        with self._lock:
            for name, watched in list(self._watched.items()):
                if versions.get(name) != self._versions.get(name):
                    self._save(watched)
                    del self._watched[name]
            self._versions, self._package = versions, engine.identity.package
        self._copies.keep(versions)

    def close(self) -> None:
        """Save all."""
        self._copies.close()
        with self._lock:
            for watched in self._watched.values():
                self._save(watched)

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the JSON-compatible state of each camera that was sampled."""
        with self._lock:
            return {name: watched.state(self.settings.limit) for name, watched in self._watched.items()}

    def example(self, camera: str, number: int) -> Path | None:
        """Return the file of an example of the alarm that has not ended, or None."""
        with self._lock:
            watched = self._watched.get(camera)
            return watched.stored[number] if watched is not None and number < len(watched.stored) else None

    # The rest runs in the thread of the copies.

    def _sampled(self, frame: CopiedFrame) -> None:
        bins, detections = measure(frame.image, frame.detections), self._counted(frame.camera)
        with self._lock:
            if (version := self._versions.get(frame.camera)) is None:
                return
            watched = self._watched.get(frame.camera) or self._open(frame.camera, version)
            since = frame.time_ns - watched.sampled_ns
            seconds = min(since, 2 * self._interval_ns) / 1e9 if watched.sampled_ns else 0.0
            counted = detections - watched.counted if detections >= watched.counted else detections
            ended = watched.baseline.add(seconds, counted if watched.sampled_ns else 0, bins)
            watched.sampled_ns, watched.counted = frame.time_ns, detections
            watched.examples.add(frame, bins)
            if ended:
                self._judge(frame, watched)
            if ended or frame.time_ns - watched.saved_ns > SAVE_NS:
                watched.saved_ns = frame.time_ns
                self._save(watched)

    def _open(self, camera: str, version: str) -> _Watched:
        path, settings = self._folder / f"{camera}.{version}.json", self.settings
        baseline = Baseline(path, settings.baseline, settings.window)
        watched = _Watched(baseline, Examples(self._folder, camera, settings.examples, settings.blur))
        watched.compare()
        if baseline.alarm:
            watched.stored = stored_examples(self._folder, camera)
        self._watched[camera] = watched
        prune(self._folder, camera, path)
        return watched

    def _judge(self, frame: CopiedFrame, watched: _Watched) -> None:
        """Compare, and report an alarm that begins or ends."""
        watched.compare()
        drifted, baseline = watched.drifted(self.settings.limit), watched.baseline
        if any(drifted) and not baseline.alarm:
            baseline.alarm, baseline.alarm_time = secrets.token_hex(8), wall_time(frame.time_ns)
            watched.stored = self._store(watched)
            log.warning("drift: %s: %s", frame.camera, describe(watched.state(self.settings.limit)))
            self._report("alarm", frame, watched)
        elif baseline.alarm and not any(drifted):
            log.warning("drift: %s: as in its baseline again", frame.camera)
            self._report("end", frame, watched)
            baseline.alarm = baseline.alarm_time = ""
            watched.stored = ()

    def _store(self, watched: _Watched) -> Sequence[Path]:
        """Store examples of the quantity that has drifted most."""
        known = [(i, each) for i, each in enumerate(watched.comparisons) if each is not None]
        quantity, comparison = max(known, key=lambda pair: pair[1].psi)
        try:
            return watched.examples.store(quantity, comparison.grown)
        except OSError as error:
            self._failed(error)
            return ()

    def _report(self, phase: Any, frame: CopiedFrame, watched: _Watched) -> None:
        state = watched.state(self.settings.limit)
        values = {"time": wall_time(frame.time_ns), "package": self._package, "start_time": watched.baseline.alarm_time}
        values |= {key: state[key] for key in ("drifted", "quantities", "detections_per_hour")}
        event = Event(EVENT, frame.camera, frame.time_ns, {}, watched.baseline.alarm)
        self._announce(event.follow(phase, frame.time_ns, **values, examples=[str(path) for path in watched.stored]))

    def _save(self, watched: _Watched) -> None:
        try:
            watched.baseline.save()
            self.trouble = ""
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if str(error) != self.trouble:
            self.trouble = str(error)
            log.warning("drift: cannot write: %s", error)


def describe(state: Mapping[str, Any]) -> str:
    """Return what has drifted in one line, from a camera's state."""
    parts = []
    for name in state["drifted"]:
        each = state["quantities"][name]
        parts.append(f"{name} (PSI {each['psi']:.2f}, {each['baseline']:g} to {each['now']:g})")
    return ", ".join(parts)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _version(engine: LoadedEngine, camera: str, settings: DriftSettings) -> str:
    """Return a hash of all that a baseline depends on: the engine, thresholds and filters, the camera, its length."""
    run = engine.run.redacted()
    own = next(each for each in run.all_cameras() if each.name == camera)
    common = run.seen_by(own).model_copy(update={"source": None, "cameras": ()})
    text = "\n".join((engine.identity.sha256, common.model_dump_json(), own.model_dump_json(), str(settings.baseline)))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
