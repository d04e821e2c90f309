"""Signals handled in their own thread, so that a handler never runs while the main thread holds a lock."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType

reload_requested = threading.Event()
"""Set by SIGHUP from `hold_reload` on; the service reloads when it sees it."""


def hold_reload() -> None:
    """Remember SIGHUP until the service can act on it; by default, the signal would end the process."""
    signal.signal(signal.SIGHUP, lambda *_: reload_requested.set())


class Signals:
    """Calls `handlers` while entered. Used in the main thread, the only one that may set signal handlers."""

    def __init__(self, handlers: Mapping[int, Callable[[], None]]) -> None:
        self._handlers = handlers
        self._previous: dict[int, object] = {}
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._wakeup = -1

    def __enter__(self) -> Signals:
        self._previous = {number: signal.signal(number, _nothing) for number in self._handlers}
        self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        from edgesparse.supervised import Supervised  # not before SIGHUP is held

        self._thread = Supervised("signals", self._run)
        return self

    def _run(self) -> None:
        while data := self._read.recv(64):
            for number in data:
                if handler := self._handlers.get(number):
                    handler()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._thread.leave()
        self._write.close()
        self._thread.join(1.0)
        self._read.close()


def _nothing(number: int, frame: FrameType | None) -> None:
    """Python writes the number to the wakeup socket only where a handler is set."""
