"""What stands around the frame loop: opened together, changed at a reload, closed together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from edgesparse.service.engine import Engine
from edgesparse.service.health import Health
from edgesparse.service.limits import Governor
from edgesparse.service.notify import Notify
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.report import Report, Reporter
from edgesparse.service.settings import Service, status_path
from edgesparse.service.snapshots import Snapshots
from edgesparse.service.tally import Tally
from edgesparse.service.watch import Watch
from edgesparse.service.web.server import Web

CLOSE_SECONDS = 4.2


class Parts:
    """Raises ConfigError and SinkError when made; nothing is left open then."""

    def __init__(self, said: Service, engine: Engine, notify: Notify) -> None:
        self._said, self._engine = said, engine
        names = engine.identity.classes
        self.health = Health()
        self.snapshots = Snapshots(said.snapshots, names)
        self.closing: list[Callable[[], None]] = [self.snapshots.close]
        self._web: Web | None = None
        try:
            self.outputs = Outputs(said, names, self.snapshots)
            self.closing.append(self.outputs.close)
            self.governor, self.tally = Governor(said.limits), Tally(len(names))
            self.report = Report(
                engine.identity, self.health, self.tally, self.governor, self.snapshots, self.outputs, notify
            )
            self.watch = Watch(notify, self.health, self.tally, self.governor, self.snapshots)
            self._open_web(said)
        except BaseException:
            self._close_all()
            raise
        self._reporter = Reporter(self.report, status_path(said))
        self._reporter.start()

    def _open_web(self, said: Service) -> None:
        self._web = Web(said.web, self.report, lambda: self._engine.package.folder) if said.web.enabled else None

    def between_engines(self) -> None:
        """Another engine with other classes is about to run; `change` is called when it does."""
        self.outputs.between_engines()
        self.snapshots.names = ()

    def engine(self, engine: Engine, cameras: Sequence[str]) -> None:
        """Another engine runs."""
        names = engine.identity.classes
        if names != self._engine.identity.classes:
            self.tally.rename(len(names))
        self._engine, self.report.identity = engine, engine.identity
        self.snapshots.forget(cameras)

    def change(self, said: Service) -> None:
        """Other settings. Raises ConfigError and SinkError."""
        names = self._engine.identity.classes
        self.governor.limits, self._reporter.path = said.limits, status_path(said)
        self.snapshots.change(said.snapshots, names)
        self.outputs.change(said, names)
        if said.web != self._said.web:
            if self._web is not None:
                self._web.close()
            try:
                self._open_web(said)
            except BaseException:
                self._open_web(self._said)
                raise
        self._said = said

    def close(self) -> None:
        """All at the same time, within CLOSE_SECONDS; the state is written last."""
        if self._web is not None:
            self.closing.append(self._web.close)
        self._close_all()
        self.health.loading = "stopped"
        self._reporter.stop()

    def _close_all(self) -> None:
        threads = [threading.Thread(target=close, daemon=True) for close in self.closing]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CLOSE_SECONDS)
