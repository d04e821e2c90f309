"""The service's life cycle: load, run, reload, switch to the fallback, end."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesparse.config import Camera, Run
from edgesparse.errors import REFUSED, BuildError, EdgeSparseError, StreamError
from edgesparse.package.store import Package
from edgesparse.progress import Progress, quiet
from edgesparse.service import engine as engines
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.failed import FailedEngines
from edgesparse.service.health import PATIENCE
from edgesparse.service.live_cameras import CameraChanges, LiveCameras
from edgesparse.service.notify import Notify
from edgesparse.service.outputs.events import EventRules
from edgesparse.service.parts import Parts
from edgesparse.service.settings import Settings, for_requests, load_settings, status_path
from edgesparse.service.signals import Signals, hold_reload, reload_requested
from edgesparse.stream.pipeline import Loop
from edgesparse.supervised import Supervised

log = logging.getLogger("edgesparse.service")

LOAD_SECONDS = 600.0
"""Time requested from systemd for loading; the first run of a recipe includes a build."""
DRAIN_SECONDS = 4.7
RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class Target:
    """What the command line names. Each reload reads it again."""

    path: Path
    store: Path
    settings: Path | None
    overrides: Mapping[str, Any]
    """Values of `run:` from the command line, laid over the settings."""
    web: Mapping[str, Any] | None = None
    """Values of `service.web:` from the command line, for a service without cameras, which only answers requests."""

    def read(self) -> Settings:
        """Read the settings. Raises ConfigError."""
        settings = load_settings(self.settings)
        settings = replace(settings, overrides={**settings.overrides, **self.overrides})
        return settings if self.web is None else for_requests(settings, self.web)


class Service:
    """Created once per process and run once. SIGTERM and SIGINT stop it, SIGHUP reloads it."""

    def __init__(self, target: Target, progress: Progress = quiet) -> None:
        """Load the settings and the engine. Raises EdgeSparseError."""
        hold_reload()
        self._target, self._notify, self._failed = target, Notify(), FailedEngines()
        self._stop = threading.Event()
        self._changing = threading.RLock()
        settings = target.read()
        self._cameras = LiveCameras(settings.service.camera_changes, self._changing)
        self._settings = replace(settings, changes=self._cameras.changes)
        if (state := status_path(self._settings.service)) is not None:
            state.unlink(missing_ok=True)  # the state of a previous process
        self._notify.status("loading the engine")
        self._notify.longer(LOAD_SECONDS)
        package, run = engines.find(target.path, target.store, self._settings, progress)
        self._engine = self._load(package, run)

    def _load(self, package: Package, run: Run) -> LoadedEngine:
        return engines.load(package, run, self._failed.reason(package.manifest.build_id))

    def run(self) -> str:
        """Run until SIGTERM, or until all sources have ended. Returns why it ended. Raises EdgeSparseError if neither
        the engine nor its fallback works.
        """
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._end,
            signal.SIGINT: self._end,
            signal.SIGHUP: reload_requested.set,
        }
        with Signals(handlers):
            try:
                self._parts = Parts(self._settings.service, self._engine, self._notify, self._cameras)
            except BaseException:
                self._engine.detector.close()
                raise
            try:
                return self._run()
            finally:
                self._notify.stopping()
                self._parts.close()
                self._engine.detector.close()

    def _run(self) -> str:
        parts, cameras = self._parts, self._engine.run.all_cameras()
        parts.health.slowest = _slowest(cameras)
        self._loop = Loop.of(
            cameras, self._engine.detector, [parts.outputs], observer=parts.watch, stop=self._stop, patient=True
        )
        self._loop.paused = parts.outputs.paused
        parts.report.requests = self._loop.requests
        self._cameras.start(parts.outputs.paused, lambda: self._engine.run.all_cameras(), self._change_cameras)
        parts.closing.append(self._loop.close)
        reloader = Supervised("reload", self._reload_loop)
        try:
            while (ended := self._detect()) is None:
                pass
        finally:
            reloader.leave()
        return ended

    def _detect(self) -> str | None:
        """Run the frame loop. Returns why it ended, or None if an inference failed."""
        try:
            return self._loop.run().ended
        except StreamError as error:
            error.exit_code = REFUSED  # it worked before: a restart may help
            raise
        except Exception as error:  # an engine may raise anything
            self._inference_failed(error)
            return None

    def _end(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            timer = threading.Timer(DRAIN_SECONDS, _exit_undrained)
            timer.daemon = True
            timer.start()

    # The rest changes the engine.

    def _inference_failed(self, error: Exception) -> None:
        """Retry, or switch to the fallback after too many failures. Called in the loop's thread, between runs."""
        health, limit = self._parts.health, self._settings.service.limits.failures
        health.failed(self._loop.requests.answered)
        log.error("inference failed (%d in a row): %s: %s", health.failing, type(error).__name__, error)
        if health.failing < limit:
            self._stop.wait(RETRY_SECONDS)
            return
        with self._changing:
            self._fall_back(f"{health.failing} inferences in a row failed: {' '.join(str(error).split())[:300]}")

    def _fall_back(self, why: str) -> None:
        engine = self._engine
        if not engines.has_fallback(engine):
            raise BuildError(f"{why}; {engine.identity.candidate} has no fallback that could take its place")
        self._failed.add(engine.identity.package, why)
        engine.detector.close()  # first, since the board may not have memory for both
        self._take(engines.load(engine.package, engine.run, why))

    def _take(self, engine: LoadedEngine) -> None:
        """Continue with this engine. Raises SourceError and ConfigError, in which case nothing has changed."""
        cameras, old = engine.run.all_cameras(), self._engine
        if engine.identity.classes != old.identity.classes:
            self._parts.between_engines()
        self._loop.replace(cameras, engine.detector)
        self._engine = engine
        self._parts.health.slowest, self._parts.health.failing = _slowest(cameras), 0
        self._parts.engine(engine, [camera.name for camera in cameras])

    def _reload_loop(self) -> None:
        while True:
            reload_requested.wait()
            reload_requested.clear()
            if self._stop.is_set():
                return
            # Until the service is up, systemd waits for the first READY=1, which this thread must not send.
            announced = self._parts.health.up
            if announced:
                self._notify.reloading()
            try:
                self._parts.report.reloaded(self._reload())
            finally:
                if announced:
                    self._notify.ready()

    def _reload(self) -> str:
        """Apply changes of settings, recipe and engine. Returns why they were refused; empty if they were not."""
        try:
            with self._changing:
                return self._change()
        except Exception as error:  # the thread must survive, or later reloads would be ignored
            log.exception("the reload failed")
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def _change(self) -> str:
        prefix = ""
        try:
            settings = self._target.read()
            changes = self._cameras.reload(settings.service.camera_changes)
            settings = replace(settings, changes=changes)
            self._failed.clear()
            package, run = engines.find(self._target.path, self._target.store, settings)
            changed = self._change_engine(package, run, settings)
            prefix = "only the engine was taken: " if changed else ""
            self._parts.change(settings.service)
            self._settings = settings
            self._cameras.commit(settings.service.camera_changes, changes)
        except EdgeSparseError as error:
            log.error("the reload is refused: %s%s", prefix, error)
            return f"{prefix}{error}"
        log.warning("reloaded: %s", self._engine.identity.package)
        return ""

    def _change_engine(self, package: Package, run: Run, settings: Settings) -> bool:
        """Load the package's engine. Returns whether a different one runs now, or the same one with other cameras."""
        old = self._engine
        same = package.manifest == old.package.manifest and not old.identity.fallback
        if same and engines.serves(old.detector, run):
            return self._keep_engine(run, settings)
        engine = self._load(package, run)
        try:
            EventRules(settings.service.events, engine.identity.classes)
            self._take(engine)
        except BaseException:
            engine.detector.close()
            raise
        old.detector.close()
        return True

    def _keep_engine(self, run: Run, settings: Settings) -> bool:
        """Change only the cameras. Returns whether they differ."""
        old = self._engine
        EventRules(settings.service.events, old.identity.classes)  # before anything changes
        if run == old.run:
            return False
        old.detector.run = run
        try:
            self._take(replace(old, run=run))
        except BaseException:
            old.detector.run = old.run
            raise
        return True

    def _change_cameras(self, changes: CameraChanges) -> None:
        """Run with other cameras. Raises EdgeSparseError, in which case nothing has changed."""
        with self._changing:
            settings, old = replace(self._settings, changes=changes), self._engine
            run = engines.run_of(old.package, settings)
            if engines.serves(old.detector, run):
                self._keep_engine(run, settings)
            else:
                self._change_engine(old.package, run, settings)
            self._parts.outputs.show(self._engine.scene)
            self._settings = settings


def _slowest(cameras: Sequence[Camera]) -> float:
    """Return how many seconds without any result are acceptable: longer if every camera's frame rate is low."""
    rates = [camera.rate for camera in cameras]
    known = [rate for rate in rates if rate is not None]
    return max(PATIENCE, 3 / max(known)) if len(known) == len(rates) and known else PATIENCE


def _exit_undrained() -> None:
    busy = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.current_thread())
    log.error("not drained after %.1f s, exiting anyway; busy: %s", DRAIN_SECONDS, busy)
    logging.shutdown()
    os._exit(1)
