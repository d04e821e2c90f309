"""Handle Ctrl-C, SIGTERM and SIGHUP between frames, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Defers a signal while frames are being processed, so that every sink gets them. A second signal is not deferred.
    Afterwards the previous handler is called; a signal without a handler keeps its default action. Does nothing outside
    the main thread, the only one in which Python handles signals. A context manager.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._busy = False
        self._held_back = 0

    @property
    def waiting(self) -> bool:
        """Whether a signal is deferred: finish what is in flight, and start nothing new."""
        return bool(self._held_back)

    def begin(self) -> None:
        """Start deferring signals: frames are being processed."""
        self._busy = True

    def end(self) -> None:
        """Stop deferring signals and handle a deferred one, which usually raises KeyboardInterrupt."""
        self._busy = False
        number, self._held_back = self._held_back, 0
        if number:
            self._handlers[number](number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._busy and not self._held_back:
            self._held_back = number
        else:
            self._handlers[number](number, frame)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
