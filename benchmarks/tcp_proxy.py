"""A network that fails on command: forwards TCP on the loopback interface, for soak.py.

    python benchmarks/tcp_proxy.py PORT COUNT

Listens on COUNT free ports, prints them on one line, and forwards each to PORT. Commands on standard input change what
arrives from the server at port N: `hold N` delays it, `garble N` changes bytes, `pass N` ends that and delivers what
was delayed, `cut N` drops the connections. Exits when standard input closes.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress


class Port:
    """One forwarded port."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._open = asyncio.Event()
        self._open.set()
        self._garbles = False
        self._writers: set[asyncio.StreamWriter] = set()

    def enter(self, state: str) -> None:
        if state == "cut":
            for writer in tuple(self._writers):
                writer.transport.abort()
            return
        self._garbles = state == "garble"
        (self._open.clear if state == "hold" else self._open.set)()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_server}
        await asyncio.gather(self._pump(reader, to_server, False), self._pump(from_server, writer, True))
        self._writers -= {writer, to_server}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(1 << 16):
                if back:
                    await self._open.wait()
                    data = _garbled(data) if self._garbles else data
                writer.write(data)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.close()


def _garbled(data: bytes) -> bytes:
    changed = bytearray(data)
    for at in random.sample(range(len(changed)), min(len(changed), 20)):
        changed[at] ^= 0xFF
    return bytes(changed)


async def main() -> None:
    target, count = int(sys.argv[1]), int(sys.argv[2])
    ports = [Port(target) for _ in range(count)]
    listening = [await asyncio.start_server(port.serve, "127.0.0.1", 0) for port in ports]
    print(*(server.sockets[0].getsockname()[1] for server in listening), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        state, number = line.split()
        ports[int(number)].enter(state)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
