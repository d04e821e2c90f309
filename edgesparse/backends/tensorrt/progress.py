"""The progress of a build: from TensorRT's progress monitor (release 10 and later), else from its log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edgesparse.backends.tensorrt.log import BuildLog
from edgesparse.progress import Progress

_HEARTBEAT_SECONDS, _STEP_SECONDS = 1.0, 0.1


def monitor(trt: Any, progress: Progress, log: BuildLog) -> Any:
    """A progress monitor for a builder config; None if the release has none.

    Ctrl-C in a call ends the build; `log.stopped` then holds the exception to raise.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.reported = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self._report(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            if time.monotonic() - self.reported >= _STEP_SECONDS:
                self._report(phase, step + 1)
            return log.stopped is None

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

        def _report(self, phase: str, done: int) -> None:
            self.reported = time.monotonic()
            try:
                if log.stopped is None:
                    progress(f"TensorRT: {phase.lower()}", done, self.steps.get(phase, 0))
            except BaseException as error:  # an exception in the library would end the process
                log.stopped = log.stopped or error

    return Monitor()


def heartbeat(trt: Any, progress: Progress) -> Callable[[int], None] | None:
    """A callback for the number of tactics timed, reported once per second; None with a progress monitor."""
    if hasattr(trt, "IProgressMonitor"):
        return None
    reported = 0.0

    def beat(timed: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= _HEARTBEAT_SECONDS:
            reported = now
            progress(f"building with TensorRT {trt.__version__}: tactics timed", timed, 0)

    return beat
