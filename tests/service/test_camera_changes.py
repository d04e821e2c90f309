"""Cameras added, paused and removed in a running service: over HTTP, on the page, by SIGHUP and over MQTT."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from broker import MOSQUITTO, Broker, Subscriber
from browser import CHROMIUM, DRIVER, browser, violations
from camera import NetworkCamera
from running import Planned, Running, Start
from samples import wait_until

from edgesparse.service.web.camera_changes import BODY_SECONDS, MAX_BODY

FRAMES = 300
ALLOW = {"allow": ["demo", "rtsp", "http"], "most": 4}


@pytest.fixture(scope="module")
def service(squares_package: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with one camera, which may get more."""
    settings = {
        "run": {"cameras": [{"name": "door", "source": "demo", "size": "160x120"}]},
        "service": {"camera_changes": ALLOW},
    }
    running = Running(tmp_path_factory.mktemp("changes"), squares_package, settings)
    running.until(lambda status: status["detecting"])
    yield running
    running.stop()
    running.close()


def names(service: Running) -> list[str]:
    return [camera["name"] for camera in service.status()["cameras"]]


def test_a_camera_is_added_and_removed_while_the_others_run(service: Running) -> None:
    camera = NetworkCamera()
    source = camera.url.replace("//", "//user:hunter2pass@")
    status, answer = service.post("/cameras", {"name": "yard", "source": source, "rate": 5})
    assert (status, answer) == (201, {"camera": "yard", "source": camera.url})
    service.until(lambda status: status["cameras"][1]["state"] == "live")
    assert service.get("/camera/yard.jpg?max_age_ms=5000")[0] == 200
    assert b'edgesparse_stage_seconds_count{camera="yard",stage="engine"}' in service.get("/metrics")[1]
    assert service.post("/cameras", {"name": "yard", "source": source})[0] == 409
    assert service.post("/camera/yard/remove") == (200, {"camera": "yard", "removed": True})
    service.until(lambda status: [camera["name"] for camera in status["cameras"]] == ["door"])
    assert service.get("/camera/yard.jpg")[0] == 404 and b'"yard"' not in service.get("/metrics")[1]
    assert service.post("/camera/door/remove")[0] == 409 and service.post("/camera/yard/remove")[0] == 404
    log = service.log()
    assert "camera yard was added by 127.0.0.1" in log and "camera yard was removed by 127.0.0.1" in log
    assert "hunter2pass" not in log + json.dumps(service.status()) + service.get("/live.json")[1].decode()
    camera.off()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "yard", "source": "/etc/passwd"}, 403),
        ({"name": "yard", "source": "0"}, 403),
        ({"name": "yard", "source": "file:///etc/passwd"}, 403),
        ({"name": "yard", "source": "http://user:hunter2pass/x@10.0.0.7/"}, 400),
        ({"name": "Yard!", "source": "demo"}, 400),
        ({"name": "yard"}, 400),
        ({"name": "yard", "source": "demo", "classes": ["unicorn"]}, 400),
        ({"name": "yard", "source": "demo", "zones": {"gate": [[0, 0]]}}, 400),
        ([1], 400),
        (b"{", 400),
        (b'{"name": ' + b"[" * 5000, 400),
        (b"x" * (MAX_BODY + 1), 400),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(service: Running, body: Any, status: int) -> None:
    code, answer = service.post("/cameras", body)
    assert code == status and answer["why"] and "hunter2pass" not in json.dumps(answer)
    assert names(service) == ["door"]


def test_pages_of_other_sites_cannot_add_or_remove(service: Running) -> None:
    body = {"name": "yard", "source": "demo"}
    for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Host": "evil.example"}):
        assert service.post("/cameras", body, **headers)[0] == 403
        assert service.post("/camera/door/remove", **headers)[0] == 403
    assert service.post("/cameras", body, Content_Type="text/plain")[0] == 415, "what a form can send"
    assert service.get("/cameras")[0] == 405 and names(service) == ["door"]


def test_a_body_that_never_ends_does_not_hold_a_connection(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as wire:
        head = (
            "POST /cameras HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        begun = time.monotonic()
        wire.sendall(head.encode())
        assert wire.recv(100).startswith(b"HTTP/1.1 408") and time.monotonic() - begun < BODY_SECONDS + 15


@pytest.mark.chromium
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt install chromium chromium-driver")
def test_the_page_adds_and_removes_a_camera(service: Running) -> None:
    with browser() as page:
        page.open(f"http://127.0.0.1:{service.port}/")
        page.until("return !document.getElementById('add-bar').hidden")
        page.run("document.getElementById('add-open').focus()")
        page.keys("\ue007")
        page.until("return document.getElementById('add').open")
        for dark in (False, True):
            page.screen(390, 900, dark)
            assert violations(page) == []
            assert page.run("const box = document.getElementById('add'); return box.scrollWidth <= box.clientWidth")
        page.screen(1280, 900)
        assert "demo, rtsp://, http://" in page.run("return document.getElementById('add').innerText")
        fill = "document.getElementById('add-name').value = '%s'; document.getElementById('add-source').value = '%s';"
        press = "document.getElementById('add-submit').click()"
        page.run(fill % ("yard", "/dev/video0") + press)
        page.until("return !document.getElementById('add-refused').hidden")
        assert "needed demo, rtsp, http" in page.run("return document.getElementById('add-refused').textContent")
        page.run(fill % ("yard", "demo:3") + press)
        page.until("return document.querySelector('[data-camera=yard].live') && !document.getElementById('add').open")
        page.run("document.querySelector('[data-camera=yard] .open').click()")
        page.run("document.getElementById('large-remove').click()")
        # by HTTP, since the file is written once per second
        shown = json.loads(service.get("/status.json")[1])["cameras"]
        assert [camera["name"] for camera in shown] == ["door", "yard"], "the first press only asks"
        page.run("document.getElementById('large-remove').click()")
        page.until("return !document.querySelector('[data-camera=yard]') && !document.getElementById('large').open")
        assert [line for line in page.log() if "Canvas2D" not in line and "Failed to load" not in line] == []
    service.until(lambda status: [camera["name"] for camera in status["cameras"]] == ["door"])


def test_no_frame_of_another_camera_is_lost(planned_package: Planned, start: Start, tmp_path: Path) -> None:
    """A source that delivers every frame, while three cameras come and go: each of its frames has a result."""
    film = tmp_path / "film"
    film.mkdir()
    for number in range(FRAMES):
        cv2.imwrite(str(film / f"{number:04}.jpg"), np.full((32, 32, 3), number % 255, np.uint8))
    cameras = [
        {"name": "door", "source": "demo", "size": "160x120"},
        {"name": "film", "source": str(film), "rate": 40},
    ]
    outputs = {"jsonl": {"file": "frames.jsonl"}, "camera_changes": ALLOW}
    service = start(planned_package({}), {"run": {"cameras": cameras}, "service": outputs})
    service.until(lambda status: status["cameras"][1]["frames"] > 5)
    for name in ("yard", "gate", "hall"):
        assert service.post("/cameras", {"name": name, "source": "demo"})[0] in (201, 409)
        service.post(f"/camera/{name}/remove")
    assert service.status()["cameras"][1]["frames"] < FRAMES, "the changes happened meanwhile"
    service.until(lambda status: status["cameras"][1]["frames"] == FRAMES)
    service.stop()
    records = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    numbers = [record["frame"] for record in records if record["camera"] == "film"]
    assert numbers == list(range(FRAMES))


@pytest.mark.mosquitto
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto")
def test_mqtt_says_it_and_a_restart_and_sighup_keep_it(
    planned_package: Planned, start: Start, broker: Broker, tmp_path: Path
) -> None:
    door = {"name": "door", "source": "demo", "size": "160x120"}
    sections = {
        "camera_changes": {**ALLOW, "file": "cameras.json"},
        "mqtt": {"host": "127.0.0.1", "port": broker.port, "discovery": "homeassistant"},
    }
    subscriber = Subscriber(broker.port, "#")

    def newest(ending: str) -> bytes | None:
        return next((payload for topic, payload, _ in reversed(subscriber.received) if topic.endswith(ending)), None)

    package = planned_package({})
    service = start(package, {"run": {"cameras": [door]}, "service": sections})
    service.until(lambda status: status["detecting"])
    assert service.post("/cameras", {"name": "yard", "source": "demo:3"})[0] == 201
    wait_until(lambda: newest("/yard/detect") == b"ON" and newest("/yard/state") and newest("yard/config"))
    assert service.post("/camera/yard/pause")[0] == 200
    wait_until(lambda: newest("/yard/detect") == b"OFF" and b"yard" in (tmp_path / "cameras.json").read_bytes())
    gate = {"name": "gate", "source": "demo:5", "size": "160x120"}
    service.write({"run": {"cameras": [door, gate]}, "service": sections})
    service.signal(signal.SIGHUP)
    service.until(lambda status: [camera["name"] for camera in status["cameras"]] == ["door", "gate", "yard"])
    assert service.post("/camera/gate/remove")[0] == 200
    wait_until(lambda: newest("/gate/state") == b"" and newest("/gate/detect") == b"")
    service.stop()

    again = start(package, {"run": {"cameras": [door, gate]}, "service": sections}, tmp_path)
    again.until(lambda status: status["pid"] == again.process.pid)
    again.until(
        lambda status: [(c["name"], c["state"]) for c in status["cameras"]] == [("door", "live"), ("yard", "paused")]
    )
    again.write({"run": {"cameras": [door, gate]}, "service": {}})
    again.signal(signal.SIGHUP)
    again.until(lambda status: [camera["name"] for camera in status["cameras"]] == ["door", "gate"])
    assert again.post("/cameras", {"name": "yard", "source": "demo:3"})[0] == 403
    again.stop()
    subscriber.close()
