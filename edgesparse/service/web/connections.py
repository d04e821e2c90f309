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
HEADER_SECONDS = 5.0
WRITE_SECONDS = 10.0
"""Seconds for a client to read a response. Then the connection is closed, or clients that never read would hold all."""
CHECK_SECONDS = 2.0


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
        self.loop.call_later(HEADER_SECONDS, self._give_up)
        self.loop.call_later(CHECK_SECONDS, self._check_reader)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()

    def _check_reader(self) -> None:
        """Close the connection of a client that has left a response unread for WRITE_SECONDS, even if it is already
        closing.
        """
        if self not in self.connections:
            return
        now = time.monotonic()
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > WRITE_SECONDS:
            self.transport.abort()
            return
        self.loop.call_later(CHECK_SECONDS, self._check_reader)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.connections:
            super().connection_lost(exc)


class _Listener(socket.socket):
    """Limits connections per second: on ENOBUFS, asyncio accepts none for a second."""

    pace = Pace(ACCEPTS_PER_SECOND)

    def accept(self) -> tuple[socket.socket, Any]:
        if self.pace.wait(0.0) is None:
            raise OSError(errno.ENOBUFS, "too many connections per second")
        return super().accept()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError if the port is not available."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = _Listener(family, kind)
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
