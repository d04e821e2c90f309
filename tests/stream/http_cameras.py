"""Cameras and files over HTTP."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import cv2
import numpy as np


@contextmanager
def serving(handler: object) -> Iterator[str]:
    """`host:port` of a server with this handler."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def jpeg(level: int, shape: tuple[int, ...] = (48, 64, 3)) -> bytes:
    return cv2.imencode(".jpg", np.full(shape, level, np.uint8))[1].tobytes()


class Camera:
    """Gray images of `shape`, each brighter than the last: /video.mjpg and /axis.cgi are endless streams, /image.jpg
    and /snap.cgi single images. `status`: answer with this status instead. `login`: required user and password, with
    Basic or, if `digest`, Digest authentication."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (48, 64, 3)
        self.status, self.login, self.digest = 200, "", False
        self.requests: list[bool] = []
        """Whether each request had credentials."""

    @contextmanager
    def serving(self, credentials: str = "user:secret@") -> Iterator[str]:
        """The URL up to the path."""
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                login = self.headers.get("Authorization", "")
                camera.requests.append(bool(login))
                if camera.login and not camera.accepts(login):
                    self.send_response(401)
                    kind = 'Digest realm="camera", nonce="1f", qop="auth"' if camera.digest else 'Basic realm="camera"'
                    self.send_header("WWW-Authenticate", kind)
                    self.end_headers()
                elif camera.status != 200:
                    self.send_error(camera.status)
                elif self.path.startswith(("/image.jpg", "/snap.cgi")):
                    self._send_image()
                else:
                    self._send_stream()

            def _send_image(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "image/jpeg")
                self.end_headers()
                self.wfile.write(jpeg(len(camera.requests) % 250, camera.shape))

            def _send_stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):
                    for part in camera.parts():
                        self.wfile.write(part)

            def log_message(self, *args: object) -> None:
                pass

        with serving(Handler) as address:
            yield f"http://{credentials}{address}"

    def parts(self) -> Iterator[bytes]:
        """Send the parts of a multipart stream, 50 per second."""
        for number in count():
            data = jpeg(number % 250, self.shape)
            yield (
                f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"
            )
            time.sleep(0.02)

    def accepts(self, login: str) -> bool:
        if self.digest:
            return login.startswith("Digest ") and f'username="{self.login.partition(":")[0]}"' in login
        return login == "Basic " + base64.b64encode(self.login.encode()).decode()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def serving_files(folder: Path) -> object:
    """A context with `host:port` of a file server."""
    return serving(partial(_Quiet, directory=str(folder)))


@contextmanager
def serving_half(data: bytes) -> Iterator[str]:
    """`host:port` of a server that sends the first half of a file and then nothing."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/x-msvideo")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
            stopped.wait(60)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as address:
        try:
            yield address
        finally:
            stopped.set()
