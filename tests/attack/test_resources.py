"""Promise: no input and no visitor costs more than a stated bound of time, memory, connections or log lines."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import free_port

from edgesparse.service.settings import WebSettings
from edgesparse.service.web import connections
from edgesparse.service.web.server import Web


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server whose patience is short."""
    for name, seconds in (("HEADER_SECONDS", 0.3), ("IDLE_SECONDS", 0.6), ("CHECK_SECONDS", 0.05)):
        monkeypatch.setattr(connections, name, seconds)
    judgement = SimpleNamespace(alive=True, detecting=True, why="")
    report: Any = SimpleNamespace(health=SimpleNamespace(judge=lambda: judgement))
    web = Web(WebSettings(port=free_port()), report, lambda: tmp_path)
    yield web
    web.close()


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def seconds_until_closed(web: Web, first: bytes, drip: bytes, most: float = 6.0) -> float:
    """Send `first`, then `drip` every 50 ms, and return for how long that was accepted."""
    begin = time.monotonic()
    with suppress(OSError), socket.create_connection(("127.0.0.1", web.port)) as wire:
        wire.sendall(first)
        while time.monotonic() - begin < most:
            if not select.select([wire], [], [], 0.05)[0]:
                wire.sendall(drip)
            elif not wire.recv(65536):
                break
    return min(most, time.monotonic() - begin)


@pytest.mark.parametrize(
    ("first", "drip", "most"),
    [
        (b"", b"G", 0.3),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"x", 0.3),
        (REQUEST, b"G", 0.6),
        (REQUEST + b"GET /healthz HTTP/1.1\r\nX: ", b"x", 0.6),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 999999999\r\n\r\n"), b"x", 0.6),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), b"1\r\nx\r\n", 0.6),
    ],
    ids=["nothing", "header", "second request", "second header", "body", "chunks"],
)
def test_a_visitor_who_sends_slowly_is_disconnected(web: Web, first: bytes, drip: bytes, most: float) -> None:
    assert seconds_until_closed(web, first, drip) < most + 1.5


def test_a_visitor_who_asks_now_and_then_stays_connected(web: Web) -> None:
    assert seconds_until_closed(web, REQUEST, REQUEST, 1.5) == 1.5
