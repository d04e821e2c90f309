"""A service in a process of its own, with a NOTIFY_SOCKET as systemd would listen on."""

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
    """What systemd hears: a datagram socket, in the abstract name space or in a folder."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[tuple[float, str]] = []

    def until(self, line: str, seconds: float = 90.0) -> str:
        """The first line, heard already or not, that begins so."""
        end = time.monotonic() + seconds
        while (found := self.find(line)) is None:
            left = end - time.monotonic()
            assert left > 0, f"never heard {line}, but {self.lines()}"
            self._hear(left)
        return found

    def find(self, line: str) -> str | None:
        return next((said for _, said in self.heard if said.startswith(line)), None)

    def listen(self, seconds: float) -> list[str]:
        """What is heard in so many seconds."""
        before, end = len(self.heard), time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._hear(left)
        return [line for _, line in self.heard[before:]]

    def forget(self) -> None:
        self._socket.settimeout(0)
        try:
            while True:
                self._socket.recv(65536)
        except BlockingIOError:
            self.heard.clear()

    def lines(self) -> list[str]:
        return [line for _, line in self.heard]

    def _hear(self, seconds: float) -> None:
        self._socket.settimeout(max(seconds, 0.01))
        try:
            text = self._socket.recv(65536).decode()
        except TimeoutError:
            return
        self.heard += [(time.monotonic(), line) for line in text.splitlines()]

    def close(self) -> None:
        self._socket.close()


class Running:
    """`edgesparse run TARGET --service`, with a settings file that may be changed."""

    def __init__(self, folder: Path, target: Path, settings: dict[str, Any], **environ: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = folder / "device.yaml"
        self.notify = Listener(f"@edgesparse-test-{os.getpid()}-{self.port}")
        self.write(settings)
        runtime = folder / "runtime"
        runtime.mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "edgesparse",
            "run",
            str(target),
            "--service",
            "--settings",
            str(self.settings),
        ]
        heard = {"NOTIFY_SOCKET": self.notify.address, "RUNTIME_DIRECTORY": str(runtime), "WATCHDOG_USEC": "2000000"}
        self._log = folder / f"log-{self.port}"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stderr=log, stdout=subprocess.DEVNULL, env={**os.environ, **heard, **environ}
            )

    def write(self, settings: dict[str, Any]) -> None:
        """JSON is YAML. The web's port is one that is free."""
        service = dict(settings.get("service", {}))
        service["web"] = {"port": self.port, **service.get("web", {})}
        self.settings.write_text(json.dumps({**settings, "service": service}))

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status), bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "runtime" / "status.json").read_text())
        return found

    def until(self, true: Callable[[dict[str, Any]], object], seconds: float = 90.0) -> dict[str, Any]:
        """The first state for which it is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                if true(said := self.status()):
                    return said
            except (FileNotFoundError, KeyError, IndexError):
                said = {}
            assert self.process.poll() is None, self.ended()
            assert time.monotonic() < end, f"never came true: {said}"
            time.sleep(0.1)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> float:
        """Seconds that it took to drain."""
        begun = time.monotonic()
        self.signal(signal.SIGTERM)
        self.process.wait(15)
        return time.monotonic() - begun

    def ended(self) -> str:
        """What it wrote, once it has ended."""
        self.process.wait(60)
        return self._log.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self.notify.close()


Start = Callable[..., Running]
Planned = Callable[..., Path]
