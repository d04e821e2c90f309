#!/usr/bin/python3
"""In the machine: an SNTP server on the loopback that answers with a time: `python3 sntp.py SECONDS_SINCE_1970`.

It counts on from that by the monotonic clock, since the machine's own clock is what is to be set (RFC 4330).
"""

import socket
import struct
import sys
import time

SINCE_1900 = 2_208_988_800


def stamp(seconds: float) -> int:
    return int((seconds + SINCE_1900) * (1 << 32))


def answer(request: bytes, seconds: float) -> bytes:
    """Return the answer of a server at stratum 1 to a client's request of 48 bytes."""
    original = request[40:48]
    head = struct.pack(">BBbb", 4 << 3 | 4, 1, 4, -20) + bytes(8) + b"TEST"
    return head + struct.pack(">Q", stamp(seconds)) + original + 2 * struct.pack(">Q", stamp(seconds))


def main() -> None:
    ahead = float(sys.argv[1]) - time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 123))
        while True:
            request, client = server.recvfrom(1024)
            server.sendto(answer(request, time.monotonic() + ahead), client)


if __name__ == "__main__":
    main()
