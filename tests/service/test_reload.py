"""SIGHUP: early, with rotated secrets, and when the reload itself fails."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from broker import MOSQUITTO, Broker
from running import Planned, Start
from samples import secret_file, wait_until

from edgesparse.service.life import Service
from edgesparse.service.signals import reload_requested

DEMO: dict[str, Any] = {"run": {"cameras": [{"name": "door", "source": "demo", "size": "160x120"}]}}


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for the signal."""
    (mask,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_sighup_before_the_service_listens_is_a_reload_once_it_does(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({}), DEMO)
    wait_until(lambda: handles(service.process.pid, signal.SIGHUP))
    for _ in range(30):
        service.signal(signal.SIGHUP)
        time.sleep(0.05)
    service.until(lambda status: status["detecting"])
    wait_until(lambda: b'edgesparse_reloads_total{outcome="done"} 0.0' not in service.get("/metrics")[1])
    service.stop()


def test_sighup_is_handled_before_anything_slow_is_imported() -> None:
    program = """
import os, signal, sys, types
import edgesparse
from edgesparse.__main__ import main
from edgesparse.service.signals import reload_requested
edgesparse.cli = types.SimpleNamespace(main=lambda: os.kill(os.getpid(), signal.SIGHUP))
sys.argv = ["edgesparse", "run", "x", "--service"]
main()
assert reload_requested.is_set() and "numpy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class Recorder:
    """The parts of a service that a reload touches."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.refusals: list[str] = []
        self.health = SimpleNamespace(up=True)
        self.report = SimpleNamespace(reloaded=self.refusals.append)

    def reloading(self) -> None:
        self.sent.append("RELOADING=1")

    def ready(self) -> None:
        self.sent.append("READY=1")


@pytest.fixture
def reloading(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, Recorder]]:
    """A service in which only the reload thread runs."""
    service, recorder = Service.__new__(Service), Recorder()
    service._stop, service._changing = threading.Event(), threading.RLock()
    monkeypatch.setattr(service, "_parts", recorder, raising=False)
    monkeypatch.setattr(service, "_notify", recorder, raising=False)
    thread = threading.Thread(target=service._reload_loop, daemon=True)
    thread.start()
    yield service, recorder
    assert thread.is_alive()
    service._stop.set()
    reload_requested.set()
    thread.join(5)
    reload_requested.clear()


@pytest.mark.parametrize("error", [RuntimeError("as a library may"), MemoryError(), RecursionError("too deep")])
def test_any_exception_refuses_the_reload_and_the_next_one_is_heard(
    reloading: tuple[Service, Recorder], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    service, recorder = reloading

    def fail() -> str:
        raise error

    monkeypatch.setattr(service, "_change", fail, raising=False)
    reload_requested.set()
    wait_until(lambda: len(recorder.sent) == 2)
    assert recorder.sent == ["RELOADING=1", "READY=1"]
    assert recorder.refusals == [f"{type(error).__name__}: {error}"]
    monkeypatch.setattr(service, "_change", lambda: "")
    reload_requested.set()
    wait_until(lambda: len(recorder.sent) == 4)
    assert recorder.sent[2:] == ["RELOADING=1", "READY=1"] and recorder.refusals[1:] == [""]


def test_a_reload_before_the_service_is_up_does_not_announce_it(
    reloading: tuple[Service, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, recorder = reloading
    recorder.health.up = False
    monkeypatch.setattr(service, "_change", lambda: "", raising=False)
    reload_requested.set()
    wait_until(lambda: recorder.refusals == [""])
    assert recorder.sent == []


def test_a_rotated_web_token_replaces_the_old_one(planned_package: Planned, start: Start) -> None:
    package = planned_package({})
    token = secret_file(package.parent / "web.token", "first-token-0123456789")
    service = start(package, {**DEMO, "service": {"web": {"token_file": str(token)}}})
    service.until(lambda status: status["detecting"])
    assert service.get("/status.json", Authorization="Bearer first-token-0123456789")[0] == 200
    token.write_text("second-token-0123456789")
    service.signal(signal.SIGHUP)
    wait_until(lambda: answer(service, "second-token-0123456789") == 200)
    assert answer(service, "first-token-0123456789") == 401
    token.write_text("short")
    service.signal(signal.SIGHUP)
    service.until(lambda status: "reload refused" in status["words"])
    assert answer(service, "second-token-0123456789") == 200, "an unusable token changes nothing"
    assert "short" not in json.dumps(service.status())
    service.stop()


def answer(service: Any, token: str) -> int:
    """The status code for a token; 0 while the server is being replaced."""
    try:
        return int(service.get("/status.json", Authorization=f"Bearer {token}")[0])
    except OSError:
        return 0


@pytest.mark.mosquitto
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto")
def test_a_rotated_mqtt_password_is_used_after_sighup(planned_package: Planned, start: Start) -> None:
    package = planned_package({})
    folder = package.parent
    passwords, mine = folder / "passwords", secret_file(folder / "mine", "wrong")
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "cam", "right"], check=True)
    broker = Broker(folder, f"allow_anonymous false\npassword_file {passwords}")
    mqtt = {"host": "127.0.0.1", "port": broker.port, "username": "cam", "password_file": str(mine)}
    service = start(package, {**DEMO, "service": {"mqtt": mqtt}})
    service.until(lambda status: status["outputs"][0]["state"].startswith("refused"))
    mine.write_text("right")
    service.signal(signal.SIGHUP)
    service.until(lambda status: status["outputs"][0]["state"] == "connected")
    service.stop()
    broker.off()
