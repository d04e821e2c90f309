"""The health window: what the service says of itself, once a second, after a switch.

The service has half of the window to be ready with the new package; in the other half it must stay up, and frames must
flow, fresh and without errors. Nothing here goes by the clock of the day: a status counts as fresh when the file
changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesparse.config import Deploy

Status = Mapping[str, Any]
INTERVAL = 1.0
"""Seconds between two looks; the service writes once a second."""
STALE = 5.0
"""Seconds without a new status after which the service counts as stuck."""
BAD = 3
"""Bad looks one after the other that end the window."""


def read(path: Path) -> tuple[int, Status] | None:
    """When it was written (for comparison only) and what it says; None when there is none that can be read."""
    try:
        said = json.loads(path.read_text())
        return path.stat().st_mtime_ns, said if isinstance(said, dict) else {}
    except (OSError, ValueError):
        return None


@dataclass
class Window:
    """Watches `path` for `seconds` until the service runs `build_id` in good health. `before`: what the service said
    before it was restarted; a camera that was dead then is not the new engine's fault."""

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
                stamp, changed, status = found[0], time.monotonic(), found[1]
            why = self._why(status, time.monotonic() - changed)
            if why is not None and self._is_over(why, time.monotonic() - begun):
                return why
        return why or self._flow(status)

    def _is_over(self, why: str, passed: float) -> bool:
        """Whether a bad look ends the window: not while the service may still be starting, and not the first one."""
        self._bad += 1
        if self._first is None:
            return passed > self.seconds / 2
        return self._bad >= BAD or why.startswith("the service restarted")

    def _why(self, status: Status | None, age: float) -> str | None:
        """What is wrong with a look at the service."""
        if status is None or status.get("package") != self.build_id or _life(status) == _life(self.before or {}):
            return f"the service did not come up with package {self.build_id} in {self.seconds / 2:g} s ({self.path})"
        if not status.get("ready"):
            return (
                f"the service was not ready after {self.seconds / 2:g} s: {status.get('why') or 'it does not say why'}"
            )
        if self._first is None:
            # Ready may mean that the engine is: cameras have the first half of the window to come too.
            if (why := self._age(status)) is not None:
                return why
            self._first = status
        why = self._wrong(status, self._first, age)
        self._bad = self._bad if why else 0
        return why

    def _wrong(self, status: Status, first: Status, age: float) -> str | None:
        if _life(status) != _life(first):
            return f"the service restarted by itself: process {first.get('pid')} is {status.get('pid')} now"
        if age > max(STALE, 3 * self.interval):
            return f"the service wrote no status for {age:.0f} s"
        if not status.get("healthy"):
            return f"the service is not healthy: {status.get('why') or 'it does not say why'}"
        if status.get("fallback"):
            return f"the service runs the fallback: {status.get('why') or 'its engine cannot be loaded'}"
        return self._errors(status, first) or self._age(status)

    def _errors(self, status: Status, first: Status) -> str | None:
        errors, frames = (_count(status, key) - _count(first, key) for key in ("errors", "frames"))
        if errors <= self.limits.max_error_share * max(frames, 0):
            return None
        return (
            f"found {errors} errors in {frames} frames, needed deploy.max_error_share {self.limits.max_error_share:g}"
        )

    def _age(self, status: Status) -> str | None:
        for camera in _cameras(status):
            name = str(camera.get("name"))
            if self.before is not None and name in _dead(self.before):
                continue
            if camera.get("state") != "live":
                return f"camera {name} is {camera.get('state')}: {camera.get('why') or 'it does not say why'}"
            age = camera.get("age_ms")
            if age is None or age > self.limits.max_age_ms:
                found = "no frame" if age is None else f"a frame {age:.0f} ms old"
                return f"camera {name}: found {found}, needed deploy.max_age_ms {self.limits.max_age_ms:g}"
        return None

    def _flow(self, status: Status | None) -> str | None:
        if status is None or self._first is None:
            return "the service wrote no status"
        names = {str(camera.get("name")) for camera in _cameras(status)}
        if self.before is not None and names <= _dead(self.before):
            return None  # frames cannot be asked for where no camera gave any before
        frames = _count(status, "frames") - _count(self._first, "frames")
        return None if frames > 0 else "no frame was detected while the service was watched"


def _cameras(status: Status) -> list[dict[str, Any]]:
    return [camera for camera in status.get("cameras") or () if isinstance(camera, dict)]


def _dead(status: Status) -> set[str]:
    """The cameras that gave no frames."""
    return {str(camera.get("name")) for camera in _cameras(status) if camera.get("state") != "live"}


def _life(status: Status) -> tuple[Any, Any]:
    """What tells one start of the service from another; in a container the process's number alone does not."""
    return status.get("pid"), status.get("started")


def _count(status: Status, key: str) -> int:
    value = status.get(key)
    return int(value) if isinstance(value, int | float) else 0
