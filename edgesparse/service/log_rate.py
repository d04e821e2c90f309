"""A limit for log lines: what fails with every frame, as on a full disk, must not fill the disk with messages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable

WINDOW = 600.0
"""Seconds over which lines are counted."""
SAME, SIMILAR = 5, 100
"""How many lines with the same text, and with the same text but for values, are written in that time."""
MOST_KINDS = 2000
"""The most different lines that are counted; beyond that, all counts start again."""


class LogRate(logging.Filter):
    """Drops lines that are repeated too often. The last line that is written says so."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._counts: dict[Hashable, int] = {}
        self._until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # the handler reports it
            return True
        with self._lock:
            now = time.monotonic()
            if now >= self._until or len(self._counts) > MOST_KINDS:
                self._counts, self._until = {}, now + WINDOW
            # Lines beyond the second bound are not counted one by one: their texts may all differ.
            similar = self._count((record.name, record.levelno, str(record.msg)))
            same = self._count((record.name, text)) if similar <= SIMILAR else 0
        if same > SAME or similar > SIMILAR:
            return False
        if same == SAME or similar == SIMILAR:
            more = "this line is" if same == SAME else "lines like this are"
            record.msg, record.args = f"%s (for {WINDOW / 60:.0f} minutes {more} left out)", (text,)
        return True

    def _count(self, key: Hashable) -> int:
        self._counts[key] = count = self._counts.get(key, 0) + 1
        return count
