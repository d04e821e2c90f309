"""Threads that survive errors: restarted with growing pauses, with their state for health, status and systemd.

All have the priority of the frame loop. A thread of lower priority that holds Python's lock while other programs use
the processors holds up every other thread: with a page at nice 10 beside four busy programs, the loop waited for half a
second, without that for a tenth.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edgesparse.errors import BackendUnavailable
from edgesparse.redaction import redact_text
from edgesparse.wording import short

log = logging.getLogger("edgesparse.threads")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
STEADY_SECONDS = 10.0
"""Seconds without an error after which a restarted thread counts as healthy again."""
DOWN_AFTER = 3
"""Consecutive errors after which the service counts as unhealthy."""
NEEDED = 21
"""Threads that the service and its outputs start, besides those of the engine and the cameras."""
NO_THREAD = "the system lets this process start no more threads"
MORE_THREADS = "raise its limit of tasks (ulimit -u; TasksMax in the unit; --pids-limit of a container)"


@dataclass(frozen=True)
class ThreadState:
    """`restarts`: since the service started. `why`: the error that it has not recovered from yet, empty while it runs.
    `down`: whether it fails repeatedly."""

    name: str
    restarts: int
    why: str
    down: bool


class Supervised:
    """A daemon thread that calls `work` again whenever it raises, or returns before `leave` was called.

    `pauses`: seconds before the first restart, doubled with each failure, and at most. Raises BackendUnavailable where
    the system allows no further thread.
    """

    def __init__(self, name: str, work: Callable[[], object], pauses: tuple[float, float] | None = None) -> None:
        self.name, self._work, self._pauses = name, work, pauses or (FIRST_PAUSE, LONGEST_PAUSE)
        self._leaving = threading.Event()
        self._restarts = self._failures = 0
        self._why = ""
        self._failed_at = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        _started.append(self)
        try:
            self._thread.start()
        except RuntimeError:
            _started.remove(self)
            raise _no_thread() from None

    def leave(self) -> None:
        """Let the thread end: `work`, when it returns, is not called again."""
        self._leaving.set()

    @property
    def leaving(self) -> bool:
        """Whether `leave` was called."""
        return self._leaving.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, in the thread itself, but no longer than until `leave`."""
        self._leaving.wait(seconds)

    def hangs(self, why: str) -> None:
        """Count the thread as down from now on, until this has not been called for STEADY_SECONDS."""
        self._record(why, DOWN_AFTER, time.monotonic())

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def state(self) -> ThreadState:
        well = not self._why or self.leaving or time.monotonic() - self._failed_at > STEADY_SECONDS + self._pause()
        why = "" if well else self._why
        return ThreadState(self.name, self._restarts, why, bool(why) and self._failures >= DOWN_AFTER)

    def _pause(self) -> float:
        first, longest = self._pauses
        return float(min(first * 2.0 ** max(0, self._failures - 1), longest))

    def _run(self) -> None:
        try:
            while not self._leaving.is_set():
                self._once()
                if self._leaving.wait(self._pause()):
                    return
                self._restarts += 1
        finally:
            with suppress(ValueError):
                _started.remove(self)

    def _once(self) -> None:
        began = time.monotonic()
        try:
            self._work()
            why, error = "it ended by itself", None
        except (Exception, SystemExit) as failure:  # uvicorn ends with SystemExit
            why, error = f"{type(failure).__name__}: {failure}", failure
        if self._leaving.is_set():
            return
        now = time.monotonic()
        self._record(why, 1 if now - began > STEADY_SECONDS else self._failures + 1, now)
        log.error("thread %s failed and is restarted: %s", self.name, self._why, exc_info=error)

    def _record(self, why: str, failures: int, now: float) -> None:
        self._failed_at, self._failures, self._why = now, failures, short(redact_text(why), 300)


_started: list[Supervised] = []


def thread_states() -> list[ThreadState]:
    """Return the state of every supervised thread, in the order in which they were started."""
    return [thread.state for thread in tuple(_started)]


def check_threads(count: int) -> None:
    """Raise BackendUnavailable unless `count` threads can be started now: native libraries would end the process."""
    end, threads = threading.Event(), []
    try:
        for _ in range(count):
            threads.append(threading.Thread(target=end.wait, daemon=True))
            threads[-1].start()
    except RuntimeError:
        raise _no_thread(f"{count} of them") from None
    finally:
        end.set()
    for thread in threads:
        thread.join()


def _no_thread(needed: str = "another one") -> BackendUnavailable:
    return BackendUnavailable(f"{NO_THREAD}, needed {needed}: {MORE_THREADS}")


def close_all(closers: Sequence[Callable[[], None]], seconds: float) -> None:
    """Call all in parallel and wait for at most `seconds`; call them one by one if no thread can be started."""
    until = time.monotonic() + seconds
    for thread in [thread for close in closers if (thread := _start_or_call(close)) is not None]:
        thread.join(max(0.0, until - time.monotonic()))


def _start_or_call(close: Callable[[], None]) -> threading.Thread | None:
    thread = threading.Thread(target=close, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        close()
        return None
    return thread
