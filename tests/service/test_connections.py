"""Connections to the web server that visitors try to hold open."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import free_port

from edgesparse.service.settings import WebSettings
from edgesparse.service.web import connections
from edgesparse.service.web.server import Web


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """A server with a /report larger than the kernel's socket buffers."""
    (tmp_path / "report.html").write_bytes(b"x" * 8_000_000)
    judgement = SimpleNamespace(alive=True, detecting=True, why="")
    report: Any = SimpleNamespace(health=SimpleNamespace(judge=lambda: judgement))
    web = Web(WebSettings(port=free_port()), report, lambda: tmp_path)
    yield web
    web.close()


def request(web: Web, path: str) -> socket.socket:
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.settimeout(60)
    wire.connect(("127.0.0.1", web.port))
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return wire


def resident() -> int:
    """Memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def served(web: Web) -> bool:
    try:
        with request(web, "/healthz") as wire:
            return wire.recv(100).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def test_an_answer_does_not_wait_for_the_acknowledgment_of_its_header() -> None:
    """asyncio sets TCP_NODELAY only on sockets that name TCP as their protocol; without it, each waits 40 ms."""
    with connections.listen("127.0.0.1", free_port()) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_visitors_who_never_read_do_not_keep_their_connections(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 8.0)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.5)
    idle, before = [], resident()
    for _ in range(connections.MAX_CONNECTIONS):
        idle.append(request(web, "/report"))
        time.sleep(0.025)
    assert not served(web), "they hold all connections"
    assert resident() - before < 60_000_000, "each holds a piece of the answer, not 8 MB of it"
    end = time.monotonic() + 30
    while not served(web):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [served(web) for _ in range(9)] == [True] * 9
    for wire in idle:
        wire.close()


def test_a_visitor_who_reads_slowly_gets_the_whole_answer(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.1)
    size, begin = 0, time.monotonic()
    with request(web, "/report") as wire:
        while size < 8_000_000:
            size += len(wire.recv(1 << 20))
            if time.monotonic() - begin < 2:
                time.sleep(0.01)
    assert size >= 8_000_000


def test_visitors_who_left_before_they_were_served_do_not_delay_others(web: Web) -> None:
    """As many as the backlog holds, not thousands, which would take a minute at the listener's pace."""
    assert served(web)
    assert waiting_at_most(web) == connections.MAX_CONNECTIONS


def waiting_at_most(web: Web) -> int:
    """The listening socket's backlog: `tcpi_sacked` of TCP_INFO (linux/tcp.h)."""
    info = web._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 28)[0])
