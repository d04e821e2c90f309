"""The package's fallback engine, run beside the chosen one to find frames on which the two disagree."""

from __future__ import annotations

from typing import Any

from edgesparse.runtime.detections import Detections
from edgesparse.service import engine as engines
from edgesparse.service.monitor.shadow import Beside, ShadowEngine
from edgesparse.shadow import ShadowRequest, ShadowSettings
from edgesparse.stream.frames import Frame

ROUND = 10_000
"""Frames after which it starts again, so that memory stays bounded and the figures are those of recent frames."""
SHOWN = {"state", "frames", "boxes", "recall", "precision", "latency_ms", "busy", "memory_mb"}
"""What the state reports of a ShadowResult."""


class FallbackCheck:
    """`offer` is called in the frame loop's thread, `tick` and `close` in another. Never raises for an engine that
    fails: `why` says what went wrong, until the next engine or new settings."""

    def __init__(self) -> None:
        self._shadow: ShadowEngine | None = None
        self.why = ""
        """Why nothing is compared although it should be; empty if nothing is wrong."""

    def offer(self, frame: Frame, detections: Detections) -> None:
        """Take the frame if the share allows it. Never waits, never allocates memory of a frame's size."""
        if self._shadow is not None:
            self._shadow.offer(frame, detections)

    def tick(self, share: float, beside: Beside) -> None:
        """Start, go on, or end where `share` is 0. Call it about once per second."""
        if self._shadow is not None and (not share or self._shadow.result.state == "done"):
            self.close()
        if self._shadow is not None:
            self._shadow.tick()
        elif share and engines.has_fallback(beside.engine):
            settings = ShadowSettings(share=share, frames=ROUND, boxes=1, seconds=86_400)
            request = ShadowRequest(id="0" * 8, package=str(beside.engine.package.folder), settings=settings)
            self._shadow = ShadowEngine(request, beside, fallback=True)
        self.why = self._trouble() if share else ""

    def _trouble(self) -> str:
        if self._shadow is None:
            return "there is no other engine to compare: the fallback runs already, or the package has none"
        result = self._shadow.result
        return f"the fallback cannot be compared: {result.why}" if result.state == "failed" else ""

    def state(self) -> dict[str, Any] | None:
        """Return the JSON-compatible state, None while none runs."""
        shadow = self._shadow
        return None if shadow is None else shadow.result.model_dump(include=SHOWN)

    def close(self) -> None:
        """End, and release the engine."""
        shadow, self._shadow, self.why = self._shadow, None, ""
        if shadow is not None:
            shadow.close()
