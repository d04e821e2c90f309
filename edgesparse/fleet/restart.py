"""How a deploy controls the service on a device: a command that restarts it, and the status that it writes."""

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
class ServiceControl:
    """`restart`: the command's words; if empty, the service is neither restarted nor watched. `status`: the file that
    the service writes. `seconds`: how long to watch it.
    """

    restart: tuple[str, ...] = ()
    status: Path = STATUS
    seconds: float = HEALTH_SECONDS
    interval: float = health.INTERVAL

    def current_status(self) -> health.ServiceStatus | None:
        """Return the service's status, or None if none can be read."""
        snapshot = health.read(self.status)
        return health.parse(snapshot[1]) if snapshot else None

    def start(self) -> str | None:
        """Restart the service. Returns why that failed."""
        try:
            with as_root():
                if self.restart[:2] == ("systemctl", "restart"):
                    # Otherwise recent starts would count towards systemd's start limit.
                    _run("systemctl", "reset-failed", *self.restart[2:])
                done = _run(*self.restart)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"'{shlex.join(self.restart)}' failed: {error}"
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            return ": ".join([f"'{shlex.join(self.restart)}' failed with code {done.returncode}", *last])
        return None

    def try_out(
        self, build_id: str, limits: Deploy, before: health.ServiceStatus | None, progress: Progress
    ) -> str | None:
        """Restart the service and watch whether `build_id` runs and is healthy. Returns why not."""
        if not self.restart:
            return None
        progress("restarting the service", 0, 0)
        window = health.HealthWindow(self.status, self.seconds, build_id, limits, before, self.interval)
        return self.start() or window.watch(progress)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=RESTART_SECONDS
    )


def service_control(command: str, status: Path, seconds: float) -> ServiceControl:
    """Return the control of a service that `command` restarts. Raises BackendUnavailable for an unknown command."""
    words = tuple(shlex.split(command))
    if words and shutil.which(words[0]) is None:
        raise BackendUnavailable(
            f"cannot restart the service: no command '{words[0]}' here: pass --restart COMMAND, or --restart '' to "
            "leave it running"
        )
    return ServiceControl(words, status, seconds)
