"""Promise: no input and no visitor costs more time, memory, connections or log lines than a stated limit."""

from __future__ import annotations

import io
import logging
import math
import select
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import free_port
from samples import output_context, wait_until

from edgesparse import camera, strict_yaml
from edgesparse.config import Run
from edgesparse.deadline import Deadline, build_opener
from edgesparse.errors import ConfigError
from edgesparse.service import log_rate
from edgesparse.service.outputs.mqtt import Mqtt, MqttSettings
from edgesparse.service.settings import WebSettings
from edgesparse.service.web import connections
from edgesparse.service.web.server import Web
from edgesparse.typed import typed


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server with short timeouts."""
    for name, seconds in (("HEADER_SECONDS", 0.3), ("IDLE_SECONDS", 0.6), ("CHECK_SECONDS", 0.05)):
        monkeypatch.setattr(connections, name, seconds)
    judgement = SimpleNamespace(alive=True, detecting=True, why="")
    report: Any = SimpleNamespace(health=SimpleNamespace(judge=lambda: judgement))
    web = Web(WebSettings(port=free_port()), report, lambda: tmp_path)
    yield web
    web.close()


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def seconds_until_closed(web: Web, first: bytes, drip: bytes, most: float = 6.0) -> float:
    """Send `first`, then `drip` every 50 ms, and return the seconds until the server closed the connection."""
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


def ring(corners: int) -> list[list[float]]:
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return [[round(0.5 + 0.4 * math.cos(a), 6), round(0.5 + 0.4 * math.sin(a), 6)] for a in angles]


def zones(**polygons: Any) -> dict[str, Any]:
    return {"cameras": [{"name": "door", "source": "demo", "zones": polygons}]}


@pytest.mark.parametrize(
    ("run", "needed"),
    [
        (zones(z=ring(camera.MOST_CORNERS + 1)), "needed 3 to 100 corners"),
        (zones(z=ring(15_000)), "needed 3 to 100 corners"),
        (zones(**{f"z{i}": ring(3) for i in range(65)}), "needed at most 64 of them"),
        ({"cameras": [{"name": f"c{i}", "source": "demo"} for i in range(257)]}, "needed at most 256 of them"),
    ],
    ids=["corners", "many corners", "zones", "cameras"],
)
def test_settings_beyond_a_bound_are_refused_quickly(run: dict[str, Any], needed: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=needed) as caught:
        typed(Run, run, "recipe.yaml")
    assert time.monotonic() - begin < 10 and len(str(caught.value)) < 400


def test_the_most_zones_that_are_allowed_are_read_in_a_second() -> None:
    begin = time.monotonic()
    typed(Run, zones(**{f"z{i}": ring(camera.MOST_CORNERS) for i in range(camera.MOST_ZONES)}), "recipe.yaml")
    assert time.monotonic() - begin < 10


def _aliases() -> bytes:
    lines = [b"%c: &%c [%s]" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(12)]
    return b"\n".join([b"a: &a [x,x,x,x,x,x,x,x,x,x]", *lines])


BOMBS = {
    "aliases": _aliases(),
    "merged aliases": b"a: &a {b: 1}\n" + b"".join(b"m%d: {<<: *a, k: *a}\n" % i for i in range(40_000)),
    "nesting": b"[" * 500_000,
    "nested mappings": b"{a: " * 100_000,
    "long text": b"a: " + b"x" * 2_000_000,
    "indentation": b"".join(b" " * i + b"a:\n" for i in range(1200)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_yaml_bombs_are_refused_in_seconds(kind: str) -> None:
    begin = time.monotonic()
    with pytest.raises(strict_yaml.YamlError, match=r"deep|values|bytes"):
        strict_yaml.load(BOMBS[kind])
    assert time.monotonic() - begin < 10


def test_a_failure_with_every_frame_does_not_fill_the_log() -> None:
    stream = io.StringIO()
    handler, log = logging.StreamHandler(stream), logging.Logger("edgesparse.service")
    handler.addFilter(log_rate.LogRate())
    log.addHandler(handler)
    for number in range(5000):
        log.warning("cannot write %s", "file")
        log.warning("lost %d", number)
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if "file" in line][-1] == "cannot write file (for 10 minutes this line is left out)"
    assert [line for line in lines if "lost" in line][-1] == "lost 99 (for 10 minutes lines like this are left out)"
    assert len(lines) == log_rate.SAME + log_rate.SIMILAR


def test_the_log_begins_again_after_its_window_and_forgets_what_nobody_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_rate, "WINDOW", 0.05)
    monkeypatch.setattr(log_rate, "MOST_KINDS", 50)
    rate = log_rate.LogRate()

    def passes(text: str) -> bool:
        return rate.filter(logging.LogRecord("x", logging.WARNING, "", 0, text, None, None))

    assert [passes("a") for _ in range(10)].count(True) == log_rate.SAME
    time.sleep(0.06)
    assert passes("a")
    assert all(passes(f"text {number}") for number in range(500)) and len(rate._counts) <= 53


def test_an_output_on_a_full_disk_says_so_in_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=free_port()), output_context(tmp_path))
    wait_until(lambda: mqtt.state.state.startswith("away"))

    def full(messages: Any) -> None:
        mqtt._spool._report(sqlite3.OperationalError("database or disk is full"), "new messages are lost")

    monkeypatch.setattr(mqtt._spool, "append", full)
    mqtt.put("door/events", lambda: "{}")
    wait_until(lambda: mqtt.state.storage)
    assert mqtt.state.storage == "database or disk is full; new messages are lost"
    mqtt.close()


@pytest.fixture
def dripping() -> Iterator[int]:
    """The port of a server that answers a TLS handshake, or any request, very slowly, one byte at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def drip(wire: socket.socket) -> None:
            with suppress(OSError), wire:
                wire.sendall(b"\x16\x03\x03\x3f\xff")
                while not ended.wait(0.05):
                    wire.sendall(b"\x02")

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=drip, args=server.accept()[:1], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        ended.set()


def test_a_broker_that_drips_its_handshake_is_away(
    dripping: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesparse.service.outputs.mqtt.ANSWER_SECONDS", 0.4)
    mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=dripping, tls=True), output_context(tmp_path))
    wait_until(lambda: mqtt.state.state == "away: no complete answer within 0.4 s")
    mqtt.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_request_to_a_server_that_drips_has_one_deadline(dripping: int, scheme: str) -> None:
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no complete answer within 0\.3 s"), Deadline(0.3):
        build_opener().open(f"{scheme}://127.0.0.1:{dripping}/", timeout=20)
    assert time.monotonic() - begin < 3


def test_a_broker_that_announces_a_long_packet_is_away(tmp_path: Path) -> None:
    """paho would keep the whole message in memory."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=server.getsockname()[1]), output_context(tmp_path))
        with server.accept()[0] as wire:
            wire.recv(4096)
            wire.sendall(b"\x20\x02\x00\x00" + b"\x30\xff\xff\xff\x7f" + b"x" * 100_000)
            wait_until(lambda: "sends a packet of 268435455 bytes" in mqtt.state.state)
        mqtt.close()


def test_a_command_with_a_long_topic_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    refusing: Any = SimpleNamespace(_topics=SimpleNamespace(command=_refuse))
    message: Any = SimpleNamespace(topic="x" * 60_000, payload=b"")
    Mqtt._commanded(refusing, None, None, message)  # type: ignore[arg-type]
    assert len(caplog.text) < 400 and "no such camera" in caplog.text


def _refuse(topic: str, payload: bytes) -> None:
    raise ValueError("no such camera")
