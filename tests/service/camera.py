"""A network camera for tests: Motion JPEG over HTTP with a moving square; it can be switched off and on."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

SIDE, CELL = 640, 80


class NetworkCamera:
    """Available at http://127.0.0.1:`port`/stream while it is on. `hold`: frames for which the square stands still."""

    def __init__(self, fps: float = 15.0, hold: int = 1) -> None:
        self._fps, self._hold = fps, hold
        self._server: ThreadingHTTPServer | None = None
        self._on = False
        self.port = 0
        self.on()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream"

    def on(self) -> None:
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                camera._feed(self)

            def log_message(self, *_: object) -> None:
                pass

        self._on = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _feed(self, handler: BaseHTTPRequestHandler) -> None:
        number = 0
        while self._on:
            jpeg = frame(number, self._hold)
            try:
                handler.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                handler.wfile.write(jpeg + b"\r\n")
            except OSError:
                return
            number += 1
            time.sleep(1 / self._fps)

    def off(self) -> None:
        self._on = False
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def frame(number: int, hold: int = 1) -> bytes:
    """A red square on an 8 x 8 grid that moves one cell every `hold` frames."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    row, column = divmod(number // hold % 64, 8)
    image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = (0, 0, 255)
    cv2.putText(image, str(number), (10, SIDE - 10), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (60, 60, 60), 2)
    return bytes(cv2.imencode(".jpg", image)[1])
