"""Notifications to systemd over a real NOTIFY_SOCKET."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from camera import NetworkCamera
from running import Listener, Planned, Start

from edgesparse.service.notify import Notify

TIMEOUT_STOP_SEC = 8
"""Of the unit: systemd kills a service that is not down by then."""
DEMO = {"run": {"cameras": [{"name": "belt", "source": "demo", "size": "160x120"}]}}


@pytest.mark.parametrize("abstract", [True, False])
def test_both_kinds_of_sockets(tmp_path: Path, abstract: bool) -> None:
    address = f"@edgesparse-{os.getpid()}" if abstract else str(tmp_path / "notify")
    listener = Listener(address)
    notify = Notify({"NOTIFY_SOCKET": address})
    notify.status("two\nlines")
    notify.ready()
    notify.longer(1.5)
    listener.listen(0.1)
    assert listener.lines() == ["STATUS=two lines", "READY=1", "EXTEND_TIMEOUT_USEC=1500000"]
    notify.close()
    listener.close()


def test_without_systemd_nothing_is_sent(tmp_path: Path) -> None:
    Notify({}).ready()
    absent = Notify({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    absent.ready()
    absent.close()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_applies_to_this_process(environ: dict[str, str], seconds: float) -> None:
    assert Notify(environ).watchdog_seconds == seconds


def test_a_service_reports_its_life_cycle(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({}), DEMO)
    service.notify.until("READY=1")
    lines = service.notify.lines()
    assert lines.index("STATUS=loading the engine") < lines.index("READY=1")
    service.notify.until("WATCHDOG=1")
    service.until(lambda status: "frames/s from 1 of 1 cameras, fp16 on null" in status["words"])
    service.notify.listen(1.5)
    assert any(line.startswith("STATUS=") and "of 1 cameras, fp16" in line for line in service.notify.lines())
    assert service.stop() < TIMEOUT_STOP_SEC
    service.notify.until("STOPPING=1")
    assert service.process.returncode == 0, service.ended()


def test_the_watchdog_is_not_fed_when_the_loop_hangs(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({"hang_at": 60}), DEMO)
    service.notify.until("WATCHDOG=1")
    service.until(lambda status: status["frames"] >= 59)
    service.notify.listen(0.5)
    assert "WATCHDOG=1" not in service.notify.listen(3.0)
    status = service.until(lambda status: not status["healthy"])
    assert "hung" in status["why"]
    assert service.get("/healthz")[0] == 503 and service.get("/readyz")[0] == 503
    assert "edgesparse_healthy 0.0" in service.get("/metrics")[1].decode()
    assert service.stop() < TIMEOUT_STOP_SEC


def test_the_watchdog_is_fed_while_cameras_are_retried(planned_package: Planned, start: Start) -> None:
    """No camera delivers frames, but the engine has run: the service is up, alive, and not ready."""
    away = NetworkCamera()
    away.off()
    service = start(planned_package({}), {"run": {"cameras": [{"name": "door", "source": away.url}]}})
    service.notify.until("WATCHDOG=1")
    assert service.notify.find("READY=1") is None
    status = service.until(lambda status: status["cameras"][0]["state"] == "away")
    assert status["healthy"] and not status["detecting"] and not status["ready"] and "door" in status["why"]
    assert (service.get("/healthz")[0], service.get("/readyz")[0]) == (200, 503)
    service.notify.until("READY=1")
    service.until(lambda status: status["ready"] and not status["detecting"])
    away.on()
    service.until(lambda status: status["detecting"])
    assert service.get("/readyz")[0] == 200
    away.off()
    begin = time.monotonic()
    service.signal(signal.SIGTERM)
    service.process.wait(60)
    assert time.monotonic() - begin < TIMEOUT_STOP_SEC
