"""Hostile visitors, broker and webhook server, for soak.py.

    python benchmarks/hostile.py WEB_PORT

Prints the ports of the broker and the webhook on one line. Then CROWD visitors attack the web page in each hostile way
in turn, SECONDS per way, while one honest visitor keeps sending requests. The two servers apply the next hostile
behavior to each connection. Exits when standard input closes, and prints JSON: attempts per way, and the honest
visitor's results.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

SECONDS, CROWD = 10.0, 70
"""More visitors than the web server allows connections."""
ANSWER_SECONDS, BACK_SECONDS = 3.0, 30.0
PATHS = ("/healthz", "/status.json", "/live.json", "/metrics")

Way = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _stay(_: float = 0.0) -> None:
    await asyncio.sleep(3600)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _get(path: str, host: str = "localhost", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


# Visitors


async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await _stay()


async def slow_header(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in itertools.cycle(b"GET / HTTP/1.1\r\nX: "):
        await _send(writer, bytes([byte]))
        await asyncio.sleep(0.5)


async def never_reads(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await _send(writer, _get("/report"))
    await _stay()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _send(writer, random.randbytes(random.randrange(1, 5000)) + b"\r\n\r\n")
    await reader.read()


async def large_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _send(writer, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (1 << 20))
    await reader.read()


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await _send(writer, _get("/metrics"))
        if not await reader.read(1 << 16):
            return


async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host = random.choice(["localhost", "evil.example", "127.0.0.1.evil.example", "\x00", "[::1"])
    path = random.choice(["/../../etc/passwd", "/camera/..%2f..%2fx.jpg", "/%00", "/" + "a" * 8000, "//x", "/report"])
    await _send(writer, _get(path, host, random.choice(["GET", "POST", "TRACE", "PUT", "BREW"])))
    await reader.read()


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _send(writer, _get("/live.json"))
    wire = writer.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def long_poll(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await _send(writer, _get(f"/camera/cam-{random.randrange(8)}.jpg?after=999999999999999"))
        if not await reader.read(1 << 16):
            return


VISITORS: dict[str, Way] = {
    way.__name__.replace("_", " "): way
    for way in (silent, slow_header, never_reads, garbage, large_header, flood, stranger, reset, long_poll)
}

# Servers

CONNACK = b"\x20\x02\x00\x00"


def _answers(data: bytes, then: float = 0.0) -> Way:
    async def way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        await _send(writer, data)
        await asyncio.sleep(then)

    return way


def _endless(first: bytes, piece: bytes, pause: float = 0.0) -> Way:
    async def way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        await _send(writer, first)
        while True:
            await _send(writer, piece)
            await asyncio.sleep(pause)

    return way


BROKER: dict[str, Way] = {
    "never answers": silent,
    "garbage": _answers(os.urandom(4000)),
    "refuses": _answers(b"\x20\x02\x00\x05"),
    "acknowledges nothing": _answers(CONNACK, 20),
    "closes": _answers(CONNACK),
    "packet of 256 MB": _endless(CONNACK + b"\x30\xff\xff\xff\x7f", b"x" * 65536, 0.05),
    "one byte per second": _endless(b"", b"\x20", 1.0),
}
WEBHOOK: dict[str, Way] = {
    "never answers": silent,
    "garbage": _answers(os.urandom(4000)),
    "closes": _answers(b""),
    "header that trickles": _endless(b"HTTP/1.1 200 OK\r\n", b"X", 0.5),
    "endless header": _endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n", 0.01),
    "endless body": _endless(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 65536, 0.05),
    "redirect": _answers(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"),
    "error": _answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
}


class Hostile:
    """All hostile servers, with their counts."""

    def __init__(self, web: int) -> None:
        self._web = web
        self._way = ""
        self.attempts: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.back: dict[str, float] = {}
        self.visits: list[tuple[str, float, float]] = []
        self.leaks = 0

    async def serve(self, name: str, ways: dict[str, Way]) -> int:
        """Start a server on a free port and return the port."""
        turn = itertools.cycle(ways.items())

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            word, way = next(turn)
            self.attempts[f"{name}: {word}"] += 1
            await _within(way, reader, writer, 20.0)

        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def visit(self) -> None:
        """Attack in every way in turn, forever."""
        for name, way in itertools.cycle(VISITORS.items()):
            self._way = f"visitor: {name}"
            began = time.monotonic()
            until = began + SECONDS
            await asyncio.gather(*(self._crowd(way, until) for _ in range(CROWD)))
            over = time.monotonic()
            self.visits.append((self._way, began, over))
            way_before, self._way = self._way, ""
            while not await self._ask("/healthz") and time.monotonic() - over < BACK_SECONDS:
                await asyncio.sleep(0.1)
            self.back[way_before] = max(self.back.get(way_before, 0.0), time.monotonic() - over)

    async def _crowd(self, way: Way, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            self.attempts[self._way] += 1
            with suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self._web), left)
                await _within(way, reader, writer, until - time.monotonic())
            await asyncio.sleep(0.1)

    async def honest(self) -> None:
        """Request one path after another, four per second."""
        for path in itertools.cycle(PATHS):
            if way := self._way:
                self.requests[way] += 1
                self.served[way] += await self._ask(path)
            await asyncio.sleep(0.25)

    async def _ask(self, path: str) -> bool:
        answer = b""
        with suppress(OSError, asyncio.TimeoutError):
            answer = await asyncio.wait_for(self._fetch(path), ANSWER_SECONDS)
        self.leaks += b"secret" in answer
        return answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 "))

    async def _fetch(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._web)
        try:
            await _send(writer, _get(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            return await reader.read()
        finally:
            writer.transport.abort()

    def result(self) -> dict[str, Any]:
        """Attempts per way; for each way of visiting, the share of the honest visitor's requests that were answered,
        and the longest time in seconds until one was answered afterwards; and when each way was active, on the
        monotonic clock."""
        during = {way: round(self.served[way] / count, 2) for way, count in self.requests.items()}
        back = {way: round(seconds, 2) for way, seconds in self.back.items()}
        result = {"attempts": dict(self.attempts), "served_share": during, "back_s": back, "leaks": self.leaks}
        return {**result, "visits": self.visits}


async def _within(way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    try:
        with suppress(OSError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            await asyncio.wait_for(way(reader, writer), max(0.0, seconds))
    finally:
        writer.transport.abort()


async def main() -> None:
    hostile = Hostile(int(sys.argv[1]))
    print(await hostile.serve("broker", BROKER), await hostile.serve("webhook", WEBHOOK), flush=True)
    visitors = [asyncio.create_task(hostile.visit()), asyncio.create_task(hostile.honest())]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in visitors:
        task.cancel()
    print(json.dumps(hostile.result()), flush=True)
    os._exit(0)  # without waiting for connections


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
