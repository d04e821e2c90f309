"""Ctrl-C and SIGTERM between frames, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Keeps signals back while a frame is on its way, so that every sink gets it; a second one comes through at once.

    Then the handlers that were there before are called; a signal that has none keeps its default. Does nothing
    outside the main thread, where Python handles no signals. A context manager.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._busy = False
        self._kept = 0

    @property
    def waiting(self) -> bool:
        """Whether one was kept back: what is on its way is to be done, and no more."""
        return bool(self._kept)

    def begin(self) -> None:
        """Frames are on their way."""
        self._busy = True

    def end(self) -> None:
        """None is any more: handle what was kept back, which mostly raises KeyboardInterrupt."""
        self._busy = False
        number, self._kept = self._kept, 0
        if number:
            self._handlers[number](number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._busy and not self._kept:
            self._kept = number
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
