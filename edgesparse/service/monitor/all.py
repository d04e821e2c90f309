"""All that watches what cameras and detector show over weeks: opened together, changed by a reload, closed together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edgesparse.device import state_folder
from edgesparse.runtime.detections import Detections
from edgesparse.service.engine import LoadedEngine
from edgesparse.service.frame_copies import CopiedFrame
from edgesparse.service.monitor.drift import Drift, describe
from edgesparse.service.monitor.drift_settings import DriftSettings
from edgesparse.service.monitor.fallback_check import FallbackCheck
from edgesparse.service.monitor.hard_frames import HardFrames
from edgesparse.service.monitor.hard_settings import HardFrameSettings
from edgesparse.service.monitor.shadow import Beside, ShadowEngine
from edgesparse.service.monitor.shadow_requests import ShadowRequests
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
        self._changing, self._closed = threading.Lock(), False
        self.drift: Drift | None = None
        self.hard: HardFrames | None = None
        self._drift_settings: DriftSettings | None = None
        self._hard_settings: HardFrameSettings | None = None
        self.shadow: ShadowEngine | None = None
        self.fallback = FallbackCheck()
        self._requests = ShadowRequests(state_folder())
        self._settings = settings
        try:
            self._open(settings)
        except BaseException:
            self.close()
            raise

    def offer(self, frame: Frame, detections: Detections) -> None:
        """Take a frame. Never waits, never allocates memory of a frame's size."""
        if self.paused:
            return
        if self.drift is not None:
            self.drift.offer(frame, detections)
        if self.hard is not None:
            self.hard.offer(frame, detections)
        if self.shadow is not None:
            self.shadow.offer(frame, detections)
        self.fallback.offer(frame, detections)

    def tick(self) -> None:
        """Start, watch and end a shadow, as a deploy requests it, and the fallback's check, which makes room for it.
        Call it about once per second."""
        request = self._requests.read()
        beside = Beside(self._engine, self._tally, self._settings.limits.memory, self._disagreed)
        with self._changing:
            if self.shadow is not None and (request is None or request.id != self.shadow.id):
                self._close_shadow()
            if request is not None and self.shadow is None and not self._closed:
                self.shadow = ShadowEngine(request, beside)
            if self.shadow is not None:
                self.shadow.tick()
            self.fallback.tick(self._fallback_share() if self.shadow is None else 0.0, beside)

    def _fallback_share(self) -> float:
        """The share of the frames on which the fallback runs; 0 where frames of disagreement are not stored."""
        hard = self._hard_settings
        return hard.fallback if hard is not None and "disagreement" in hard.reasons and not self._closed else 0.0

    def _disagreed(self, frame: CopiedFrame) -> None:
        if self.hard is not None:
            self.hard.disagreed(frame)

    def engine(self, engine: LoadedEngine) -> None:
        """Go on with this engine and its cameras. A shadow and the fallback's check start again beside it."""
        with self._changing:
            self._engine = engine
            self._close_shadow()
            self.fallback.close()
        for each in (self.drift, self.hard):
            if each is not None:
                each.engine(engine)

    def change(self, settings: ServiceSettings) -> None:
        """Apply new settings. Raises SinkError, in which case nothing has changed."""
        previous = self._settings
        try:
            self._open(settings)
        except BaseException:
            self._open(previous)
            raise
        self._settings = settings

    def _open(self, settings: ServiceSettings) -> None:
        """Close and open what differs from what is open."""
        if settings.drift != self._drift_settings:
            self._close_drift()
            if settings.drift is not None:
                self.drift = Drift(settings.drift, state_folder(), self._tally.counted, self._announce)
                self.drift.engine(self._engine)
            self._drift_settings = settings.drift
        if settings.hard_frames != self._hard_settings:
            self._close_hard()
            if settings.hard_frames is not None:
                self.hard = HardFrames(settings.hard_frames, state_folder(), self._engine)
            self._hard_settings = settings.hard_frames

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the state of drift of each camera that was sampled."""
        return self.drift.states() if self.drift is not None else {}

    def shadow_state(self) -> dict[str, Any] | None:
        """Return the state of the shadow, None if there is none."""
        shadow = self.shadow
        return None if shadow is None else shadow.result.model_dump()

    def hard_state(self) -> dict[str, Any] | None:
        """Return the state of hard frames, with that of the fallback's check; None if none are stored."""
        return None if self.hard is None else {**self.hard.state(), "fallback": self.fallback.state()}

    def words(self) -> list[str]:
        """Return what should be looked at, a line each."""
        drifted = [(name, state) for name, state in self.states().items() if state["state"] == "drifted"]
        lines = [f"{name} has drifted: {describe(state)}" for name, state in drifted]
        for each, what in ((self.drift, "drift"), (self.hard, "hard frames")):
            if each is not None and each.trouble:
                lines.append(f"{what}: cannot write: {each.trouble}")
        return [*lines, *([f"hard frames: {self.fallback.why}"] if self.fallback.why else [])]

    def close(self) -> None:
        self._close_drift()
        self._close_hard()
        with self._changing:
            self._closed = True
            self._close_shadow()
            self.fallback.close()

    def _close_shadow(self) -> None:
        shadow, self.shadow = self.shadow, None
        if shadow is not None:
            shadow.close()

    def _close_drift(self) -> None:
        drift, self.drift, self._drift_settings = self.drift, None, None
        if drift is not None:
            drift.close()

    def _close_hard(self) -> None:
        hard, self.hard, self._hard_settings = self.hard, None, None
        with self._changing:
            self.fallback.close()
        if hard is not None:
            hard.close()
