"""Retained messages: the newest per topic, which the broker keeps for whoever subscribes later."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Retained:
    """`put` is called in any thread, the rest in the sending thread. Its size is bounded by the number of topics."""

    def __init__(self, nudge: Callable[[], None]) -> None:
        """`nudge` is called when there is something to send."""
        self._newest: dict[str, bytes] = {}
        self._unsent: dict[str, bytes] = {}
        self._lock, self._nudge = threading.Lock(), nudge

    def put(self, topic: str, payload: bytes) -> None:
        """Replace the topic's message, unless it is the same; an empty one removes the topic from the broker."""
        with self._lock:
            if self._newest.get(topic) == payload:
                return
            self._newest[topic] = self._unsent[topic] = payload
        self._nudge()

    def get(self, topic: str) -> bytes | None:
        """Return the topic's message, None if there is none."""
        return self._newest.get(topic)

    def topics(self, prefix: str) -> list[str]:
        """Return the topics below a prefix."""
        with self._lock:
            return [topic for topic, payload in self._newest.items() if topic.startswith(f"{prefix}/") and payload]

    def renew(self) -> None:
        """Have all messages sent again, over a new connection."""
        with self._lock:
            self._unsent = dict(self._newest)

    def take(self) -> list[tuple[str, bytes]]:
        """Return the messages that are to be sent."""
        with self._lock:
            unsent, self._unsent = self._unsent, {}
        return list(unsent.items())

    def __len__(self) -> int:
        return len(self._unsent)
