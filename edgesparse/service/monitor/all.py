"""All that watches what cameras and detector show over weeks: opened together, changed by a reload, closed together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgesparse.device import state_folder
from edgesparse.runtime.detections import Detections
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.monitor.drift import Drift, describe
from edgesparse.service.outputs.events import Event
from edgesparse.service.settings import ServiceSettings
from edgesparse.service.tally import Tally
from edgesparse.stream.frames import Frame


class Monitors:
    """`offer` is called in the frame loop's thread, everything else in others. Opening raises SinkError, and leaves
    nothing open in that case. `announce` takes events."""

    def __init__(
        self, settings: ServiceSettings, engine: LoadedEngine, tally: Tally, announce: Callable[[Event], None]
    ) -> None:
        self._engine, self._tally, self._announce = engine, tally, announce
        self.paused = False
        """Whether nothing is copied, because memory is low."""
        self.drift: Drift | None = None
        self._settings = settings
        self._open_drift(settings)

    def offer(self, frame: Frame, detections: Detections) -> None:
        """Take a frame. Never waits, never allocates memory of a frame's size."""
        if self.drift is not None and not self.paused:
            self.drift.offer(frame, detections)

    def engine(self, engine: LoadedEngine) -> None:
        """Go on with this engine and its cameras."""
        self._engine = engine
        if self.drift is not None:
            self.drift.engine(engine)

    def change(self, settings: ServiceSettings) -> None:
        """Apply new settings. Raises SinkError, in which case nothing has changed."""
        if settings.drift != self._settings.drift:
            self._close_drift()
            try:
                self._open_drift(settings)
            except BaseException:
                self._open_drift(self._settings)
                raise
        self._settings = settings

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the state of drift of each camera that was sampled."""
        return self.drift.states() if self.drift is not None else {}

    def words(self) -> list[str]:
        """Return what should be looked at, a line each."""
        drifted = [(name, state) for name, state in self.states().items() if state["state"] == "drifted"]
        lines = [f"{name} has drifted: {describe(state)}" for name, state in drifted]
        trouble = self.drift.trouble if self.drift is not None else ""
        return [*lines, f"drift: cannot write: {trouble}"] if trouble else lines

    def close(self) -> None:
        self._close_drift()

    def _open_drift(self, settings: ServiceSettings) -> None:
        if settings.drift is not None:
            self.drift = Drift(settings.drift, state_folder(), self._tally.counted, self._announce)
            self.drift.engine(self._engine)

    def _close_drift(self) -> None:
        drift, self.drift = self.drift, None
        if drift is not None:
            drift.close()
