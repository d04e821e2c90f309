"""Fuzz targets that come over a network: bundles, and requests to the web page."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bundles
import cv2
import mutations
import numpy as np

from edgesparse.errors import SignatureError
from edgesparse.fleet import bundle
from edgesparse.runtime.detections import Detections
from edgesparse.service.settings import WebSettings
from edgesparse.service.web import camera_images, connections, door, inference, server
from edgesparse.stream.requests import Requests

ANSWER_SECONDS = 5.0


def write_bundle(folder: Path) -> None:
    """A signed bundle with three files, and its key."""
    bundles.signed(folder / "b.esb", bundles.key(folder))


def damage_bundle(rng: random.Random, sound: Path, folder: Path) -> None:
    """Change the bundle's bytes, mostly in the manifest; the original is kept next to it."""
    data = (sound / "b.esb").read_bytes()
    changed = mutations.mutate_bytes(rng, data[:2048]) + data[2048:] if rng.random() < 0.7 else b""
    (folder / "b.esb").write_bytes(changed or mutations.mutate_bytes(rng, data))
    (folder / "sound.esb").symlink_to(sound / "b.esb")
    (folder / "trusted").symlink_to(sound / "trusted")


def read_bundle(folder: Path) -> None:
    """Anything that differs from what was signed is refused before any of its files is written."""
    same = (folder / "b.esb").read_bytes() == (folder / "sound.esb").read_bytes()
    with bundles.opened(folder / "b.esb") as opened:
        file = opened.complete(folder, lambda *_: None)
        bundle.verify(file, opened.head, opened.where)
        if not same:
            raise AssertionError("a bundle that differs from the signed one was accepted")
        (folder / "out").mkdir()
        bundle.unpack(file, opened.head, folder / "out", opened.where)


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"GET /camera/door.jpg?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /report HTTP/1.1\r\nHost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /live.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic dTpw\r\nConnection: close\r\n\r\n",
    b"POST /status.json HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
]
_PIXEL = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes()
_PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + _PIXEL + b"\r\n--x--\r\n"
_TENSOR = b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,1,1,3],"data":[1,2,3]}]}'


def _post(path: str, body: bytes, header: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{header}\r\n".encode() + body


REQUESTS += [
    _post("/v1/detect?deadline_ms=5000", _PIXEL),
    _post("/v1/detect?deadline_ms=5000&width=1&height=1&pixels=rgb", b"rgb"),
    _post("/v1/detect?deadline_ms=5000", _PART, "Content-Type: multipart/form-data; boundary=x\r\n"),
    _post("/v2/models/model/infer", _TENSOR, f"Inference-Header-Content-Length: {len(_TENSOR)}\r\n"),
]
WORDS = [b"Transfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999\r\n", b"\r\n\r\n"]
WORDS += [
    b"Host: evil.example\r\n",
    b"Upgrade: websocket\r\n",
    b"%00",
    b"/../../etc/passwd",
    b"HTTP/2.0",
    b"\xff" * 300,
]


def damage_request(rng: random.Random, sound: Path, folder: Path) -> None:
    """Damage one or more requests by inserting parts of others."""
    data = rng.choice(REQUESTS)
    for _ in range(rng.choice([0, 1, 2])):
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice(WORDS) + data[at:]
    (folder / "request").write_bytes(mutations.mutate_bytes(rng, data) if rng.random() < 0.8 else data)


def read_request(folder: Path) -> None:
    """Send the request, read the answer, and expect the server to answer the next visitor."""
    port = _web()
    answer = _exchange(port, (folder / "request").read_bytes())
    if b"Traceback" in answer or b"root:" in answer or answer.startswith(b"HTTP/1.1 500"):
        raise AssertionError(f"answered {answer[:200]!r}")
    if not _exchange(port, REQUESTS[3].replace(b"/live.json", b"/healthz")).startswith(b"HTTP/1.1 200 "):
        raise AssertionError("the next visitor was not served")
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise SignatureError("refused")


def _exchange(port: int, data: bytes) -> bytes:
    answer = b""
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as wire:
        try:
            wire.sendall(data)
            while piece := wire.recv(65536):
                answer += piece
        except ConnectionError:
            pass  # it hung up, which is an answer too
    return answer


def _answered_requests() -> Requests:
    """Requests for detections that a thread answers: there are none."""
    awake = threading.Event()
    requests = Requests(awake)

    def answer() -> None:
        while awake.wait():
            awake.clear()
            taken = requests.take(100)
            requests.answer(taken, [Detections.none()] * len(taken))

    threading.Thread(target=answer, daemon=True).start()
    return requests


@cache
def _web() -> int:
    """This process's server, with short waits and without rate limits, which would only slow down fuzzing."""
    judgement = SimpleNamespace(alive=True, detecting=True, why="")
    camera = SimpleNamespace(name="door", state="live", why="")
    health = SimpleNamespace(judge=lambda: judgement, cameras=[camera])
    snapshots = SimpleNamespace(view=lambda _: None, paused=False)
    identity, governor = SimpleNamespace(model="model", package="a", backend="null"), SimpleNamespace(share=1.0)
    parts = {"identity": identity, "governor": governor, "requests": _answered_requests(), "refusals": {}}
    report: Any = SimpleNamespace(health=health, live=dict, status=dict, snapshots=snapshots, **parts)
    unlimited = connections.Pace(1e9)
    unlimited_class: Any = connections._Listener
    unlimited_class.pace, door.REQUESTS_PER_SECOND, camera_images.WAIT_SECONDS = unlimited, 10**9, 0.05
    inference.BODY_SECONDS = 0.1
    connections.HEADER_SECONDS, connections.IDLE_SECONDS, connections.CHECK_SECONDS = 0.1, 0.1, 0.02
    server.exposition = lambda _: b""  # type: ignore[assignment]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return server.Web(WebSettings(port=port), report, lambda: Path("/nowhere")).port


Part = tuple[Callable[[Path], None], Callable[[random.Random, Path, Path], None], Callable[[Path], None]]
BUNDLE: Part = (write_bundle, damage_bundle, read_bundle)
REQUEST: Part = (lambda _: None, damage_request, read_request)
"""How each target is written, damaged and read."""
