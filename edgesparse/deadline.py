"""HTTP requests with a deadline for the whole exchange.

Socket timeouts apply to each receive: a server that sends a byte now and then can hold a request forever.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from contextvars import ContextVar, Token
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any
from urllib.request import BaseHandler, HTTPHandler, HTTPSHandler, OpenerDirector, Request
from urllib.request import build_opener as _build_opener


class Deadline:
    """Ends the connections that `opener` opens in this thread while it is entered, once `seconds` have passed.

    A cut-off request raises TimeoutError. Resolving a host name is not interrupted.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._expired = self._over = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._token: Token[Deadline | None] | None = None

    def __enter__(self) -> Deadline:
        self._timer.start()
        self._token = _current.set(self)
        return self

    def watch(self, connection: socket.socket) -> None:
        """End this connection at the deadline."""
        with self._lock:
            # A duplicate: TLS moves the descriptor into another object.
            self._sockets.append(connection.dup())
        if self._expired:
            self._expire()

    def lift(self) -> None:
        """Leave the connections open."""
        self._timer.cancel()

    def _expire(self) -> None:
        with self._lock:
            if self._over:
                return
            self._expired = True
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._token is not None:
            _current.reset(self._token)
        with self._lock:
            self._over = True
            for connection in self._sockets:
                connection.close()
        # Even without an error: http.client takes a header that is cut off for complete.
        if self._expired and (error is None or isinstance(error, OSError | HTTPException)):
            raise TimeoutError(f"no complete answer within {self._seconds:g} s") from None


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def _connect(*args: Any, **options: Any) -> socket.socket:
    try:
        connection = socket.create_connection(*args, **options)
    except UnicodeError as error:  # a label of the host's name is empty or longer than 63 characters
        raise OSError(f"no host of that name: {error}") from None
    deadline = _current.get()
    if deadline is not None:
        deadline.watch(connection)
    return connection


class _Connection(HTTPConnection):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._create_connection = _connect


class _SecureConnection(HTTPSConnection):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._create_connection = _connect


class _Http(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(HTTPSHandler):
    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, req, context=ssl.create_default_context())


def watched(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have the handshakes of a TLS context obey the Deadline of the calling thread too. Returns the context."""
    wrap = context.wrap_socket

    def wrap_watched(sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        deadline = _current.get()
        if deadline is not None:
            deadline.watch(sock)
        # Here, where a handshake that fails closes the connection: not every library does.
        return wrap(sock, *args, **{**options, "do_handshake_on_connect": True})

    context.wrap_socket = wrap_watched  # type: ignore[method-assign]
    return context


def build_opener(*handlers: BaseHandler | type[BaseHandler]) -> OpenerDirector:
    """Return an opener of http and https addresses that obeys the Deadline of the calling thread."""
    return _build_opener(_Http, _Https, *handlers)
