"""Promise: no input and no visitor costs more time, memory, connections or log lines than a stated limit."""

from __future__ import annotations

import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import squares
from serving import Served, detector, multipart, served

from edgesparse.service.web import inference

PNG = cv2.imencode(".png", squares.image([(1, 1, 0)]))[1].tobytes()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(detector(tmp_path_factory.mktemp("squares"))) as serving:
        yield serving


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG that states a size it does not have."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


ZEROS = zlib.compress(bytes(1 << 27), 9)
BLACK = zlib.compress(bytes(64 * 193))
MANY, KIND = multipart(*[b"x"] * 20_000)
BOMBS = {
    "a PNG of 20,000 by 20,000 pixels": (png(20_000, 20_000, ZEROS), "", 413),
    "a PNG that unpacks to more than it states": (png(64, 64, ZEROS), "", None),
    "a PNG with a text of 128 MiB": (png(64, 64, BLACK, chunk(b"zTXt", b"a\0\0" + ZEROS)), "", None),
    "a PNG with a side of 2^31 - 1": (png((1 << 31) - 1, 1, b""), "", 413),
    "a JPEG of 65,500 by 65,500 pixels": (jpeg(65_500, 65_500), "", 413),
    "a JPEG that states more than it has": (jpeg(4000, 4000), "", None),
    "20,000 parts": (MANY, KIND, 413),
    "a part with an endless header": (b"--x\r\nA: " + b"a" * 1_000_000, "multipart/form-data; boundary=x", 400),
    "a boundary of 60 kB": (MANY, f"multipart/form-data; boundary={'x' * 8000}", 400),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_image_costs_much_memory_or_time(serving: Served, name: str) -> None:
    body, kind, status = BOMBS[name]
    begin, before = time.monotonic(), peak()
    answer = serving.post("/v1/detect", body, **({"Content_Type": kind} if kind else {}))
    assert time.monotonic() - begin < 15 and peak() - before < 150_000_000
    if status is not None or answer[0] != 200:
        assert serving.refusal(answer)[0] in (status, 400, 413)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_clients_that_never_finish_a_body_hold_only_what_they_sent(serving: Served) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", serving.web.port), 5))
            length = f"Content-Length: {inference.MAX_BODY}"
            wire.sendall(f"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode() + b"x" * 100)
        answer = serving.post("/v1/detect", PNG)
        assert answer[0] == 200 and len(json.loads(answer[2])["images"][0]["detections"]) == 1


def test_a_page_of_another_site_or_another_host_name_cannot_ask(serving: Served) -> None:
    for path in ("/v1/detect", "/v2/models/small/infer"):
        assert serving.post(path, PNG, Origin="http://evil.example")[0] == 403
        assert serving.post(path, PNG, Host="evil.example")[0] == 403


def test_an_engine_that_quotes_a_secret_is_redacted(serving: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("cannot copy from rtsp://user:PLANTED@10.0.0.9/x\nsecond line")

    submit = serving.loop._detector.submit
    monkeypatch.setattr(
        serving.loop._detector, "submit", lambda images, tiles: (fail if images[0].any() else submit)(images)
    )
    status, why = serving.refusal(serving.post("/v1/detect", PNG))
    assert status == 500 and "PLANTED" not in why and "rtsp://" in why
