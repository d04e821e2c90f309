"""What systemd hears, over a real NOTIFY_SOCKET."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from camera import NetworkCamera
from running import Listener, Planned, Start

from edgesparse.service.notify import Notify

DEMO = {"run": {"cameras": [{"name": "belt", "source": "demo", "size": "160x120"}]}}


@pytest.mark.parametrize("abstract", [True, False])
def test_both_kinds_of_sockets(tmp_path: Path, abstract: bool) -> None:
    address = f"@edgesparse-{os.getpid()}" if abstract else str(tmp_path / "notify")
    heard = Listener(address)
    notify = Notify({"NOTIFY_SOCKET": address})
    notify.status("two\nlines")
    notify.ready()
    notify.longer(1.5)
    heard.listen(0.1)
    assert heard.lines() == ["STATUS=two lines", "READY=1", "EXTEND_TIMEOUT_USEC=1500000"]
    notify.close()
    heard.close()


def test_nobody_listens(tmp_path: Path) -> None:
    Notify({}).ready()
    gone = Notify({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    gone.ready()
    gone.close()


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
def test_the_watchdog_is_this_process_own(environ: dict[str, str], seconds: float) -> None:
    assert Notify(environ).watchdog_seconds == seconds


def test_a_service_tells_its_life(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({}), DEMO)
    service.notify.until("READY=1")
    lines = service.notify.lines()
    assert lines.index("STATUS=loading the engine") < lines.index("READY=1")
    service.notify.until("WATCHDOG=1")
    service.until(lambda said: "frames/s from 1 of 1 cameras, fp16 on null" in said["words"])
    service.notify.listen(1.5)
    assert any(line.startswith("STATUS=") and "of 1 cameras, fp16" in line for line in service.notify.lines())
    assert service.stop() < 5
    service.notify.until("STOPPING=1", 1)
    assert service.process.returncode == 0, service.ended()


def test_no_sign_of_life_when_the_loop_hangs(planned_package: Planned, start: Start) -> None:
    service = start(planned_package({"hang_at": 60}), DEMO)
    service.notify.until("WATCHDOG=1")
    service.until(lambda said: said["frames"] >= 59)
    service.notify.listen(0.5)
    assert "WATCHDOG=1" not in service.notify.listen(3.0)
    said = service.until(lambda said: not said["healthy"], 15)
    assert "hung" in said["why"]
    assert service.get("/healthz")[0] == 503 and service.get("/readyz")[0] == 503
    assert "edgesparse_healthy 0.0" in service.get("/metrics")[1].decode()
    assert service.stop() < 6


def test_a_sign_of_life_while_cameras_are_retried(planned_package: Planned, start: Start) -> None:
    """No camera gives frames: the engine has inferred all the same, so the service is up, alive, and not ready."""
    away = NetworkCamera()
    away.off()
    service = start(planned_package({}), {"run": {"cameras": [{"name": "door", "source": away.url}]}})
    service.notify.until("WATCHDOG=1")
    assert service.notify.find("READY=1") is None
    said = service.until(lambda said: said["cameras"][0]["state"] == "away", 10)
    assert said["healthy"] and not said["detecting"] and not said["ready"] and "door" in said["why"]
    assert (service.get("/healthz")[0], service.get("/readyz")[0]) == (200, 503)
    service.notify.until("READY=1", 20)
    service.until(lambda said: said["ready"] and not said["detecting"], 5)
    away.on()
    service.until(lambda said: said["detecting"], 20)
    assert service.get("/readyz")[0] == 200
    away.off()
    begun = time.monotonic()
    service.signal(signal.SIGTERM)
    service.process.wait(10)
    assert time.monotonic() - begun < 5.5
