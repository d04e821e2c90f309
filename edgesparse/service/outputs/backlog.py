"""Messages waiting to be sent: the newest in memory, older ones in the spool."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from edgesparse.service.outputs.base import Writer
from edgesparse.service.outputs.spool import Message, Spool

MAX_IN_MEMORY = 20_000
"""Most messages in memory during an attempt to connect; beyond that the oldest are dropped."""


class Backlog:
    """`put` is called from one thread, everything else from the sending thread. Raises SinkError if the spool file is
    not writable.
    """

    def __init__(self, path: Path, most: int, topic: str) -> None:
        self.spool = Spool(path, most)
        self._topic = topic
        self._incoming: deque[tuple[str, Writer]] = deque()
        self._number = self.spool.last
        self._lost = 0

    def put(self, topic: str, write: Writer) -> None:
        self._incoming.append((topic, write))
        if len(self._incoming) > MAX_IN_MEMORY:
            self._incoming.popleft()
            self._lost += 1

    @property
    def in_memory(self) -> int:
        return len(self._incoming)

    def __len__(self) -> int:
        return self.spool.count + len(self._incoming)

    @property
    def dropped(self) -> int:
        return self.spool.dropped + self._lost

    def take(self, most: int) -> list[Message]:
        """Remove the oldest messages from memory and return them."""
        messages = []
        for _ in range(min(most, len(self._incoming))):
            topic, write = self._incoming.popleft()
            self._number += 1
            messages.append(Message(self._number, f"{self._topic}/{topic}", write().encode()))
        return messages

    def spill(self, before: Iterable[Message] = ()) -> None:
        """Move all messages from memory to disk, after those in `before`."""
        self.spool.append([*before, *self.take(len(self._incoming))])
