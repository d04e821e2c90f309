"""A web server and a frame loop in this process, which answer images, and clients that send them."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import squares
from browser import free_port

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec, InputSpec
from edgesparse.runtime.detector import Detector
from edgesparse.service.settings import WebSettings
from edgesparse.service.web.server import Web
from edgesparse.stream.cameras import Feed
from edgesparse.stream.pipeline import Loop


def detector(folder: Path) -> Detector:
    """A real engine, which finds squares of two colors."""
    spec = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(squares.SIZE,) * 2))
    return Detector(backend("onnxruntime").load(squares.detector(folder / "squares.onnx")), spec)


Answer = tuple[int, dict[str, str], bytes]


class Served:
    """`loop` runs if `start` was called."""

    def __init__(self, engine: Detector, feeds: Sequence[Feed] = (), **web: Any) -> None:
        self.stop = threading.Event()
        self.loop = Loop(feeds, engine, stop=self.stop)
        self.report = report_of(self.loop)
        self.web = Web(WebSettings(port=free_port(), **web), self.report, lambda: Path("/nowhere"))
        self._thread = threading.Thread(target=self.loop.run)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.web.port}"

    def start(self) -> None:
        self._thread.start()

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        """POST with headers, whose names have _ for -."""
        named = {"Content-Type": "application/octet-stream", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return self.request(urllib.request.Request(f"http://{self.address}{path}", body, named))

    def get(self, path: str) -> Answer:
        return self.request(urllib.request.Request(f"http://{self.address}{path}"))

    def request(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status), dict(answer.headers), bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def refusal(self, answer: Answer) -> tuple[int, str]:
        """Return the status and the reason of a refusal, which is one line of JSON."""
        status, headers, body = answer
        assert headers["content-type"] == "application/json" and b"\n" not in body, (headers, body)
        return status, str(json.loads(body)["error"])

    def close(self) -> None:
        self.web.close()
        self.stop.set()
        if self._thread.is_alive():
            self._thread.join(60)


def report_of(loop: Loop) -> Any:
    """What the server reads of the service."""
    judgement = SimpleNamespace(alive=True, detecting=True, why="")
    return SimpleNamespace(
        health=SimpleNamespace(judge=lambda: judgement, cameras=()),
        governor=SimpleNamespace(share=1.0, why=""),
        identity=SimpleNamespace(model="small", package="abc", backend="null"),
        requests=loop.requests,
        refusals={},
    )


@contextmanager
def served(engine: Detector, feeds: Sequence[Feed] = (), *, started: bool = True, **web: Any) -> Iterator[Served]:
    serving = Served(engine, feeds, **web)
    try:
        if started:
            serving.start()
        yield serving
    finally:
        serving.close()
        engine.close()


def multipart(*parts: bytes, boundary: str = "edge") -> tuple[bytes, str]:
    """Return a body of multipart/form-data and its Content-Type."""
    head = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + head + part + b"\r\n" for part in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
