"""A service in its own process, and a NOTIFY_SOCKET in place of systemd's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from browser import free_port


class Listener:
    """Receives what systemd would, on a datagram socket in the abstract namespace or in a folder."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.received: list[tuple[float, str]] = []

    def until(self, line: str, seconds: float = 90.0) -> str:
        """Wait for a line with this prefix, unless it was already received, and return it."""
        end = time.monotonic() + seconds
        while (match := self.find(line)) is None:
            left = end - time.monotonic()
            assert left > 0, f"never received {line}, but {self.lines()}"
            self._receive(left)
        return match

    def find(self, line: str) -> str | None:
        return next((text for _, text in self.received if text.startswith(line)), None)

    def listen(self, seconds: float) -> list[str]:
        """Return the lines received in the next seconds."""
        before, end = len(self.received), time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._receive(left)
        return [line for _, line in self.received[before:]]

    def forget(self) -> None:
        self._socket.settimeout(0)
        try:
            while True:
                self._socket.recv(65536)
        except BlockingIOError:
            self.received.clear()

    def lines(self) -> list[str]:
        return [line for _, line in self.received]

    def _receive(self, seconds: float) -> None:
        self._socket.settimeout(max(seconds, 0.01))
        try:
            text = self._socket.recv(65536).decode()
        except TimeoutError:
            return
        self.received += [(time.monotonic(), line) for line in text.splitlines()]

    def close(self) -> None:
        self._socket.close()


class Running:
    """`edgesparse run --service TARGET`, or another verb, with a settings file that tests change."""

    def __init__(
        self, folder: Path, target: Path, settings: dict[str, Any], verb: str = "run --service", **environ: str
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = folder / "device.yaml"
        self.notify = Listener(f"@edgesparse-test-{os.getpid()}-{self.port}")
        self.write(settings)
        runtime = folder / "runtime"
        runtime.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "edgesparse", *verb.split(), str(target), "--settings", str(self.settings)]
        systemd = {"NOTIFY_SOCKET": self.notify.address, "RUNTIME_DIRECTORY": str(runtime), "WATCHDOG_USEC": "2000000"}
        self._log = folder / f"log-{self.port}"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stderr=log, stdout=subprocess.DEVNULL, env={**os.environ, **systemd, **environ}
            )

    def write(self, settings: dict[str, Any]) -> None:
        """Write the settings, as JSON, which is YAML, with a free port for the web page."""
        service = dict(settings.get("service", {}))
        service["web"] = {"port": self.port, **service.get("web", {})}
        self.settings.write_text(json.dumps({**settings, "service": service}))

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status), bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def post(self, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Send JSON as programs do. Returns the status and the value of the response."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        every = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, every, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status), json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
                return error.code, json.loads(text) if text.startswith("{") else text

    def log(self) -> str:
        return self._log.read_text()

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.folder / "runtime" / "status.json").read_text())
        return status

    def until(self, condition: Callable[[dict[str, Any]], object], seconds: float = 90.0) -> dict[str, Any]:
        """Wait for a status that meets the condition and return it."""
        end = time.monotonic() + seconds
        while True:
            try:
                if condition(status := self.status()):
                    return status
            except (FileNotFoundError, KeyError, IndexError):
                status = {}
            assert self.process.poll() is None, self.ended()
            assert time.monotonic() < end, f"never became true: {status}"
            time.sleep(0.1)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> float:
        """Stop the service. Returns the seconds that draining took."""
        begin = time.monotonic()
        self.signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - begin

    def ended(self) -> str:
        """Wait until the service has ended and return its log."""
        self.process.wait(60)
        return self._log.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self.notify.close()


Start = Callable[..., Running]
Planned = Callable[..., Path]
