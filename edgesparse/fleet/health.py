"""The health window: what the service says of itself, once a second, after a switch.

The service has half of the window to be ready with the new package; in the other half it must stay up, and frames must
flow, fresh and without errors. Nothing here goes by the clock of the day: a status counts as fresh when the file
changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edgesparse.config import Deploy

INTERVAL = 1.0
"""Seconds between two looks; the service writes once a second."""
STALE = 5.0
"""Seconds without a new status after which the service counts as stuck."""
BAD = 3
"""Bad looks one after the other that end the window."""


class Camera(BaseModel):
    name: str
    state: str
    why: str = ""
    age_ms: float | None = None

    @property
    def live(self) -> bool:
        return self.state == "live"


class Status(BaseModel):
    """What a deploy reads of the service's status.json; the rest of it is for others."""

    package: str
    """The build id of what runs."""
    pid: int
    started: float
    ready: bool
    healthy: bool
    why: str = ""
    frames: int
    errors: int
    fallback: bool = False
    cameras: tuple[Camera, ...] = ()

    @property
    def life(self) -> tuple[int, float]:
        """What tells one start of the service from another; in a container the process's number alone does not."""
        return self.pid, self.started

    @property
    def because(self) -> str:
        return self.why or "it does not say why"


def read(path: Path) -> tuple[int, dict[str, Any]] | None:
    """When it was written (for comparison only) and what it says; None when there is none that can be read."""
    try:
        said = json.loads(path.read_text())
        return (path.stat().st_mtime_ns, said) if isinstance(said, dict) else None
    except (OSError, ValueError):
        return None


def understood(said: dict[str, Any]) -> Status | None:
    """None for what is no status of the service."""
    try:
        return Status.model_validate(said)
    except ValidationError:
        return None


@dataclass
class Window:
    """Watches `path` for `seconds` until the service runs `build_id` in good health. `before`: what the service said
    before it was restarted; a camera that was away then is not the new engine's fault."""

    path: Path
    seconds: float
    build_id: str
    limits: Deploy
    before: Status | None = None
    interval: float = INTERVAL
    _bad: int = field(default=0, init=False)
    _first: Status | None = field(default=None, init=False)

    def watch(self, progress: Callable[[str, int, int], None]) -> str | None:
        """Why the service is sick, as soon as that is sure; None when it is healthy at the end."""
        begun = changed = time.monotonic()
        stamp = seen[0] if (seen := read(self.path)) else None
        status: Status | None = None
        why: str | None = "the service wrote no status"
        while (now := time.monotonic()) < begun + self.seconds:
            progress("watching the service", int(now - begun), int(self.seconds))
            time.sleep(min(self.interval, max(begun + self.seconds - now, 0)))
            if (found := read(self.path)) is not None and found[0] != stamp:
                stamp, changed, status = found[0], time.monotonic(), understood(found[1])
            why = self._why(status, time.monotonic() - changed)
            if why is not None and self._is_over(status, time.monotonic() - begun):
                return why
        return why or self._flow(status)

    def _is_over(self, status: Status | None, passed: float) -> bool:
        """Whether a bad look ends the window: not while the service may still be starting, and not the first one,
        unless it has started anew."""
        if self._first is None:
            return passed > self.seconds / 2
        self._bad += 1
        return self._bad >= BAD or (status is not None and status.life != self._first.life)

    def _why(self, status: Status | None, age: float) -> str | None:
        """What is wrong with a look at the service."""
        half = f"{self.seconds / 2:g} s"
        if status is None or status.package != self.build_id or (self.before and status.life == self.before.life):
            return f"the service did not come up with package {self.build_id} in {half} ({self.path})"
        if not status.ready:
            return f"the service was not ready after {half}: {status.because}"
        if self._first is None:
            # Ready may mean that the engine is: cameras have the first half of the window to come too.
            if (why := self._age(status)) is not None:
                return why
            self._first = status
        why = self._wrong(status, self._first, age)
        self._bad = self._bad if why else 0
        return why

    def _wrong(self, status: Status, first: Status, age: float) -> str | None:
        if status.life != first.life:
            return f"the service restarted by itself: process {first.pid} is {status.pid} now"
        if age > max(STALE, 3 * self.interval):
            return f"the service wrote no status for {age:.0f} s"
        if not status.healthy:
            return f"the service is not healthy: {status.because}"
        if status.fallback:
            return f"the service runs the fallback: {status.because}"
        return self._errors(status, first) or self._age(status)

    def _errors(self, status: Status, first: Status) -> str | None:
        errors, frames, most = status.errors - first.errors, status.frames - first.frames, self.limits.max_error_share
        if errors <= most * max(frames, 0):
            return None
        return f"found {errors} errors in {frames} frames, needed deploy.max_error_share {most:g}"

    def _age(self, status: Status) -> str | None:
        for camera in self._asked(status):
            if not camera.live:
                return f"camera {camera.name} is {camera.state}: {camera.why or 'it does not say why'}"
            if camera.age_ms is None or camera.age_ms > self.limits.max_age_ms:
                found = "no frame" if camera.age_ms is None else f"a frame {camera.age_ms:.0f} ms old"
                return f"camera {camera.name}: found {found}, needed deploy.max_age_ms {self.limits.max_age_ms:g}"
        return None

    def _flow(self, status: Status | None) -> str | None:
        """Frames cannot be asked for where every camera was away before."""
        if status is None or self._first is None:
            return "the service wrote no status"
        flows = status.frames > self._first.frames or (status.cameras and not self._asked(status))
        return None if flows else "no frame was detected while the service was watched"

    def _asked(self, status: Status) -> list[Camera]:
        """The cameras that were not away before."""
        away = {camera.name for camera in self.before.cameras if not camera.live} if self.before else set()
        return [camera for camera in status.cameras if camera.name not in away]
