"""The service's parts around the frame loop, with hostile visitors and servers, for soak.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import packages  # noqa: E402

from edgesparse.package.store import find_package  # noqa: E402
from edgesparse.runtime.detector import Detector  # noqa: E402
from edgesparse.service.engine import LoadedEngine, identify  # noqa: E402
from edgesparse.service.notify import Notify  # noqa: E402
from edgesparse.service.parts import Parts  # noqa: E402
from edgesparse.service.settings import load_settings  # noqa: E402

SECRET = "secret-of-the-soak-0123456789"
REPORT = 8 << 20
"""Bytes of the build's report: more than the kernel buffers for a visitor who does not read."""


class Beside:
    """The service's page and outputs, and their attackers. `result` has the attackers' figures after `close`."""

    def __init__(self, detector: Detector, folder: Path) -> None:
        os.environ["EDGESPARSE_STATE"] = str(folder)
        web = _free_port()
        self._program = Program(web)
        broker, webhook = self._program.ports
        settings = load_settings(_settings(folder, web, broker, webhook))
        self.parts = Parts(settings.service, _engine(detector, folder / "package"), Notify())
        self.result: dict[str, Any] = {}

    def close(self) -> None:
        outputs = {state.name: vars(state) for state in self.parts.outputs.states()}
        self.result = {**self._program.close(), "outputs": outputs}
        self.parts.close()


class Program:
    """hostile.py as a process."""

    def __init__(self, web: int) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "hostile.py"), str(web)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.ports = [int(port) for port in self._process.stdout.readline().split()]

    def close(self) -> dict[str, Any]:
        """End it and return its figures."""
        out, _ = self._process.communicate(timeout=30)
        figures: dict[str, Any] = json.loads(out)
        return figures


@contextmanager
def beside(detector: Detector, folder: Path) -> Iterator[Beside]:
    """Open and close them. `folder` is for state."""
    attacked = Beside(detector, folder)
    try:
        yield attacked
    finally:
        attacked.close()


def _settings(folder: Path, web: int, broker: int, webhook: int) -> Path:
    secret = folder / "token"
    secret.touch(0o600)
    secret.write_text(SECRET)
    service = {
        "web": {"port": web},
        "mqtt": {"host": "127.0.0.1", "port": broker, "username": "cam", "password_file": "token", "spool": "10 MB"},
        "webhook": {"url": f"http://127.0.0.1:{webhook}/{SECRET}", "token_file": "token", "timeout": 2, "queue": 100},
        "jsonl": {"file": "rows.jsonl", "most": "10 MB"},
        "events": [{"name": "thing", "pause": 1}],
        "status": "status.json",
    }
    path = folder / "device.yaml"
    path.write_text(json.dumps({"service": service}))
    return path


def _engine(detector: Detector, folder: Path) -> LoadedEngine:
    folder.mkdir()
    packages.fill(folder, "aaa", detector=detector.spec)
    (folder / "report.html").write_bytes(b"x" * REPORT)
    package = find_package(folder)
    return LoadedEngine(package, detector, package.manifest.run, identify(package.manifest, detector, fallback=False))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
