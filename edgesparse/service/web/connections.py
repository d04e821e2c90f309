"""Connections of the web server: how many, how fast, and for how long."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edgesparse.errors import ConfigError

MAX_CONNECTIONS = 64
ACCEPTS_PER_SECOND = 50
HEADER_SECONDS, IDLE_SECONDS = 5.0, 15.0
"""Seconds for a client to send the first request, and each further one over the same connection."""
WRITE_SECONDS = 10.0
"""Seconds for a client to read a response. Without a limit, clients that never read would hold all connections."""
CHECK_SECONDS = 1.0
STREAMS = ".mjpg"
"""The suffix of paths whose responses are endless streams."""


class Pace:
    """A rate limit: evenly spaced turns, with a burst of one second's worth."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._due = 0.0

    def wait(self, longest: float) -> float | None:
        """Reserve the next turn and return the seconds until it; None, without a reservation, if that exceeds
        `longest`.
        """
        now = time.monotonic()
        due = max(self._due + self._interval, now - 1.0)
        if due - now > longest:
            return None
        self._due = due
        return max(0.0, due - now)


class Protocol(H11Protocol):
    """One connection: closed if there are too many, if no request comes, or if the response is not read."""

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= MAX_CONNECTIONS:
            transport.abort()
            return
        super().connection_made(transport)
        self._unread_since: float | None = None
        self._unread = 0
        self._answered: Any = None
        self._waits_since = time.monotonic()
        self.loop.call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        """Close the connection of a client that is too slow, even if it is already closing."""
        if self not in self.connections:
            return
        now = time.monotonic()
        if self._sends_no_request(now) or self._reads_no_answer(now):
            self.transport.abort()
            return
        self.loop.call_later(CHECK_SECONDS, self._check)

    def _sends_no_request(self, now: float) -> bool:
        """Whether a request has been incomplete for too long; uvicorn's own limit restarts with each byte."""
        if self.cycle is not self._answered or (self.cycle is not None and not self.cycle.response_complete):
            self._answered, self._waits_since = self.cycle, now
        return now - self._waits_since > (HEADER_SECONDS if self.cycle is None else IDLE_SECONDS)

    def _reads_no_answer(self, now: float) -> bool:
        """Whether a response has been unread for WRITE_SECONDS; for an endless stream, only if none of it was read."""
        size, before = self.transport.get_write_buffer_size(), self._unread
        self._unread = size
        if not size or (size != before and self.scope["path"].endswith(STREAMS)):
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        return self._unread_since is not None and now - self._unread_since > WRITE_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.connections:
            super().connection_lost(exc)


class _Listener(socket.socket):
    """Limits connections per second: after ENOBUFS, asyncio accepts none for a second."""

    pace = Pace(ACCEPTS_PER_SECOND)

    def accept(self) -> tuple[socket.socket, Any]:
        if self.pace.wait(0.0) is None:
            raise OSError(errno.ENOBUFS, "too many connections per second")
        return super().accept()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError if the port is not available."""
    try:
        kinds = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = kinds[0]
        listener = _Listener(family, kind, protocol)  # asyncio sets TCP_NODELAY only if the protocol is TCP's
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(MAX_CONNECTIONS)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        remedy = "choose another service.web.port" if error.errno == errno.EADDRINUSE else "check service.web.host"
        raise ConfigError(f"service.web: cannot listen on {host}:{port}: {error.strerror or error}: {remedy}") from None
    listener.setblocking(False)
    return listener
