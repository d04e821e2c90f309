"""The health window: the service's status after a switch, once per second.

The service has half of the window to become ready with the new package. In the other half it must stay up, and frames
must flow, fresh and without errors. The wall clock is not used: a status counts as new when the file changes.
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
from edgesparse.files import read_regular

INTERVAL = 1.0
"""Seconds between two checks; the service writes once per second."""
STALE = 5.0
"""Seconds without a new status after which the service counts as stuck."""
BAD = 3
"""Consecutive bad checks that end the window."""
MAX_BYTES = 4 << 20


class CameraHealth(BaseModel):
    name: str
    state: str
    why: str = ""
    age_ms: float | None = None

    @property
    def live(self) -> bool:
        return self.state == "live"


class ServiceStatus(BaseModel):
    """The part of the service's status.json that a deploy reads."""

    package: str
    """The build id of the running engine."""
    pid: int
    started: float
    ready: bool
    healthy: bool
    why: str = ""
    frames: int
    errors: int
    fallback: bool = False
    cameras: tuple[CameraHealth, ...] = ()
    shadow: dict[str, Any] | None = None
    """An engine that runs beside the active one, as ShadowResult."""

    @property
    def life(self) -> tuple[int, float]:
        """A value that differs between two starts of the service; in a container, the process id alone may not."""
        return self.pid, self.started

    @property
    def because(self) -> str:
        return self.why or "it gives no reason"


def read(path: Path) -> tuple[int, dict[str, Any]] | None:
    """Return when the status was written (for comparison only) and its values, or None if it cannot be read."""
    try:
        values = json.loads(read_regular(path, MAX_BYTES))
        return (path.stat().st_mtime_ns, values) if isinstance(values, dict) else None
    except (OSError, ValueError, RecursionError):
        return None


def parse(values: dict[str, Any]) -> ServiceStatus | None:
    """Return the typed status, or None if the values are not a status of the service."""
    try:
        return ServiceStatus.model_validate(values)
    except ValidationError:
        return None


@dataclass
class HealthWindow:
    """Watches the status in `path` for `seconds`, until the service runs `build_id` and is healthy.

    `before`: the status before the restart; a camera that was already away is not the new engine's fault.
    """

    path: Path
    seconds: float
    build_id: str
    limits: Deploy
    before: ServiceStatus | None = None
    interval: float = INTERVAL
    _bad: int = field(default=0, init=False)
    _first: ServiceStatus | None = field(default=None, init=False)

    def watch(self, progress: Callable[[str, int, int], None]) -> str | None:
        """Return why the service is not healthy, as soon as that is certain; None if it is healthy at the end."""
        begin = changed = time.monotonic()
        stamp = seen[0] if (seen := read(self.path)) else None
        status: ServiceStatus | None = None
        why: str | None = "the service wrote no status"
        while (now := time.monotonic()) < begin + self.seconds:
            progress("watching the service", int(now - begin), int(self.seconds))
            time.sleep(min(self.interval, max(begin + self.seconds - now, 0)))
            if (latest := read(self.path)) is not None and latest[0] != stamp:
                stamp, changed, status = latest[0], time.monotonic(), parse(latest[1])
            why = self._why(status, time.monotonic() - changed)
            if why is not None and self._is_over(status, time.monotonic() - begin):
                return why
        return why or self._flow(status)

    def _is_over(self, status: ServiceStatus | None, passed: float) -> bool:
        """Whether a bad check ends the window: not while the service may still be starting, and not the first one
        unless the service has restarted."""
        if self._first is None:
            return passed > self.seconds / 2
        self._bad += 1
        return self._bad >= BAD or (status is not None and status.life != self._first.life)

    def _why(self, status: ServiceStatus | None, age: float) -> str | None:
        """Return what is wrong with the service in this check."""
        half = f"{self.seconds / 2:g} s"
        if status is None or status.package != self.build_id or (self.before and status.life == self.before.life):
            return f"the service did not come up with package {self.build_id} in {half} ({self.path})"
        if not status.ready:
            return f"the service was not ready after {half}: {status.because}"
        if self._first is None:
            # The engine may be ready before the cameras, which also have the first half of the window.
            if (why := self._age(status)) is not None:
                return why
            self._first = status
        why = self._wrong(status, self._first, age)
        self._bad = self._bad if why else 0
        return why

    def _wrong(self, status: ServiceStatus, first: ServiceStatus, age: float) -> str | None:
        if status.life != first.life:
            return f"the service restarted by itself: process {first.pid} is {status.pid} now"
        if age > max(STALE, 3 * self.interval):
            return f"the service wrote no status for {age:.0f} s"
        if not status.healthy:
            return f"the service is not healthy: {status.because}"
        if status.fallback:
            return f"the service runs the fallback: {status.because}"
        return self._errors(status, first) or self._age(status)

    def _errors(self, status: ServiceStatus, first: ServiceStatus) -> str | None:
        errors, frames, most = status.errors - first.errors, status.frames - first.frames, self.limits.max_error_share
        if errors <= most * max(frames, 0):
            return None
        return f"found {errors} errors in {frames} frames, needed deploy.max_error_share {most:g}"

    def _age(self, status: ServiceStatus) -> str | None:
        for camera in self._watched(status):
            if not camera.live:
                return f"camera {camera.name} is {camera.state}: {camera.why or 'no reason given'}"
            if camera.age_ms is None or camera.age_ms > self.limits.max_age_ms:
                frame = "no frame" if camera.age_ms is None else f"a frame {camera.age_ms:.0f} ms old"
                return f"camera {camera.name}: found {frame}, needed deploy.max_age_ms {self.limits.max_age_ms:g}"
        return None

    def _flow(self, status: ServiceStatus | None) -> str | None:
        """Return why no frames flow; they need not if every camera was already away."""
        if status is None or self._first is None:
            return "the service wrote no status"
        flows = status.frames > self._first.frames or (status.cameras and not self._watched(status))
        return None if flows else "no frame was detected while the service was watched"

    def _watched(self, status: ServiceStatus) -> list[CameraHealth]:
        """Return the cameras that were not away before."""
        away = {camera.name for camera in self.before.cameras if not camera.live} if self.before else set()
        return [camera for camera in status.cameras if camera.name not in away]
