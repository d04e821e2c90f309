"""Everything around the frame loop: opened together, changed by a reload, closed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgesparse.service.credentials import fingerprint
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.health import Health
from edgesparse.service.limits import Governor
from edgesparse.service.live_cameras import LiveCameras
from edgesparse.service.monitor.all import Monitors
from edgesparse.service.notify import Notify
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.report import Report, Reporter
from edgesparse.service.settings import ServiceSettings, status_path
from edgesparse.service.snapshots import SnapshotEncoder
from edgesparse.service.tally import Tally
from edgesparse.service.watch import Watch
from edgesparse.service.web.server import Web
from edgesparse.supervised import close_all

CLOSE_SECONDS = 4.2


class Parts:
    """Opening them raises ConfigError and SinkError, and leaves nothing open in that case."""

    def __init__(
        self, settings: ServiceSettings, engine: LoadedEngine, notify: Notify, cameras: LiveCameras | None = None
    ) -> None:
        self._settings, self._engine, self._cameras = settings, engine, cameras or LiveCameras()
        names = engine.identity.classes
        self.health = Health()
        self.snapshots = SnapshotEncoder(settings.snapshots, names)
        self.closing: list[Callable[[], None]] = [self.snapshots.close]
        self._web: Web | None = None
        self._web_fingerprint: tuple[Any, ...] = ()
        try:
            self.outputs = Outputs(settings, engine.scene, self.snapshots)
            self.closing.append(self.outputs.close)
            self.governor, self.tally = Governor(settings.limits), Tally(len(names))
            self.report = Report(engine, self.health, self.tally, self.governor, self.snapshots, self.outputs)
            self.monitors = Monitors(settings, engine, self.tally, self.outputs.announce)
            self.closing.append(self.monitors.close)
            self.report.monitors = self.monitors
            self.watch = Watch(notify, self.health, self.tally, self.governor, self.outputs, self.monitors)
            self._open_web(settings)
        except BaseException:
            self._close_all()
            raise
        self._reporter = Reporter(self.report, notify, status_path(settings), self._cameras.keep)

    def _open_web(self, settings: ServiceSettings) -> None:
        web, self._web_fingerprint = settings.web, fingerprint(settings.web)
        self._web = None
        if web.enabled:
            self._web = Web(web, self.report, lambda: self._engine.package.folder, self._cameras)

    def between_engines(self) -> None:
        """Prepare for an engine with other classes; `change` is called once it runs."""
        self.outputs.between_engines()
        self.snapshots.names = ()

    def engine(self, engine: LoadedEngine, cameras: Sequence[str]) -> None:
        """Switch to the engine that runs now."""
        names = engine.identity.classes
        if names != self._engine.identity.classes:
            self.tally.restart_classes(len(names))
        self._engine = self.report.engine = engine
        self.snapshots.keep(cameras)
        self.tally.keep(cameras)
        self.monitors.engine(engine)

    def change(self, settings: ServiceSettings) -> None:
        """Apply new settings. Raises ConfigError and SinkError."""
        names = self._engine.identity.classes
        self.governor.limits, self._reporter.path = settings.limits, status_path(settings)
        self.snapshots.change(settings.snapshots, names)
        self.outputs.change(settings, self._engine.scene)
        self.monitors.change(settings)
        if fingerprint(settings.web) != self._web_fingerprint:
            if self._web is not None:
                self._web.close()
            try:
                self._open_web(settings)
            except BaseException:
                self._open_web(self._settings)
                raise
        self._settings = settings

    def close(self) -> None:
        """Close all in parallel, within CLOSE_SECONDS; the state is written last."""
        if self._web is not None:
            self.closing.append(self._web.close)
        self._close_all()
        self.health.loading = "stopped"
        self._reporter.stop()

    def _close_all(self) -> None:
        close_all(self.closing, CLOSE_SECONDS)
