"""The service on a device, as a deploy sees it: a command that restarts it, and the status that it writes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgesparse.config import Deploy
from edgesparse.errors import BackendUnavailable
from edgesparse.fleet import health
from edgesparse.fleet.owner import as_root
from edgesparse.progress import Progress

STATUS = Path("/run/edgesparse/status.json")
RESTART = "systemctl restart edgesparse"
RESTART_SECONDS = 180.0
HEALTH_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """`restart`: the command's words; without any the service is left alone and not watched. `status`: the file that it
    writes. `seconds`: how long it is watched."""

    restart: tuple[str, ...] = ()
    status: Path = STATUS
    seconds: float = HEALTH_SECONDS
    interval: float = health.INTERVAL

    def says(self) -> health.Status | None:
        found = health.read(self.status)
        return health.understood(found[1]) if found else None

    def start(self) -> str | None:
        """Restart it. Returns why that failed."""
        try:
            with as_root():
                if self.restart[:2] == (
                    "systemctl",
                    "restart",
                ):  # else starts of the last minutes count against this one
                    forget = ("systemctl", "reset-failed", *self.restart[2:])
                    subprocess.run(forget, stdin=subprocess.DEVNULL, capture_output=True, timeout=RESTART_SECONDS)
                done = subprocess.run(
                    self.restart, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RESTART_SECONDS
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"'{shlex.join(self.restart)}' failed: {error}"
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()[-1:]
            return ": ".join([f"'{shlex.join(self.restart)}' failed with code {done.returncode}", *words])
        return None

    def try_out(self, build_id: str, limits: Deploy, before: health.Status | None, progress: Progress) -> str | None:
        """Restart it and watch whether `build_id` runs in good health. Returns why not."""
        if not self.restart:
            return None
        progress("restarting the service", 0, 0)
        window = health.Window(self.status, self.seconds, build_id, limits, before, self.interval)
        return self.start() or window.watch(progress)


def service(command: str, status: Path, seconds: float) -> Service:
    """Raises BackendUnavailable when there is no such command."""
    words = tuple(shlex.split(command))
    if words and shutil.which(words[0]) is None:
        raise BackendUnavailable(
            f"cannot restart the service: no command '{words[0]}' here: pass --restart COMMAND, or --restart '' to "
            "leave the service alone"
        )
    return Service(words, status, seconds)
