"""The page for keyboards, screen readers, narrow screens and proxies, in a real Chromium with axe-core."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser, browser, violations
from camera import NetworkCamera
from running import Running

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt install chromium chromium-driver"),
]
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
LIVE = "return document.querySelectorAll('.camera.live canvas:not([hidden])').length === 1"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def service(squares_package: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with a camera that has a zone, tracking, and an event rule."""
    camera = NetworkCamera(hold=8)
    zone = [[0.02, 0.02], [0.98, 0.02], [0.98, 0.98], [0.02, 0.98]]
    door = {"name": "door", "source": camera.url, "zones": {"gate": zone}, "lines": {"way": [[0.5, 0], [0.5, 1]]}}
    settings = {
        "run": {"tracking": True, "cameras": [door]},
        "service": {
            "events": [{"name": "square", "zones": ["gate"]}],
            "drift": {"interval": 1},
            "web": {"hosts": ["proxy.local"]},
        },
    }
    running = Running(tmp_path_factory.mktemp("page"), squares_package, settings)
    running.until(lambda status: status["detecting"])
    yield running
    running.close()
    camera.off()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_violation(service: Running, chromium: Browser, width: int, dark: bool) -> None:
    chromium.screen(width, 900, dark)
    chromium.open(f"http://127.0.0.1:{service.port}/")
    chromium.until(LIVE)
    assert violations(chromium) == []
    wide, inside = chromium.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inside
    chromium.run("document.querySelector('[data-camera=door] .open').click()")
    chromium.until("return document.getElementById('large-pause').textContent === 'Pause'")
    assert violations(chromium) == [], "the large view"
    assert chromium.run("const box = document.getElementById('large'); return box.scrollWidth <= box.clientWidth")


def test_a_camera_opens_large_and_is_paused_by_keyboard(service: Running, chromium: Browser) -> None:
    chromium.screen(1280, 900)
    chromium.open(f"http://127.0.0.1:{service.port}/")
    chromium.until(LIVE)
    chromium.run("document.querySelector('[data-camera=door] .open').focus()")
    chromium.keys(ENTER)
    chromium.until("return document.getElementById('large').open")
    chromium.until("return document.querySelector('#large-objects path').getAttribute('d').length > 0")
    text = chromium.until(
        "const text = document.getElementById('large').innerText; return /square start/.test(text) && text"
    )
    assert "gate" in text and "1 red" in text
    chromium.until(
        "const text = document.getElementById('large-counted').innerText;"
        r"return /way\s+\d+ in.*, \d+ out/.test(text) && /gate\s+[1-9]\d* entered \(\d+ red/.test(text)"
    )
    while chromium.run("return document.activeElement.id") != "large-pause":
        chromium.keys(TAB)
    chromium.keys(ENTER)
    service.until(lambda status: status["cameras"][0]["state"] == "paused")
    chromium.until("return document.getElementById('large-pause').textContent === 'Resume'")
    frames = service.status()["cameras"][0]["frames"]
    chromium.until("return document.querySelector('[data-camera=door]').classList.contains('paused')")
    assert service.status()["cameras"][0]["frames"] == frames and service.status()["healthy"]
    chromium.keys(ENTER)
    service.until(lambda status: status["cameras"][0]["state"] == "live" and status["cameras"][0]["frames"] > frames)
    chromium.keys(ESCAPE)
    chromium.until("return !document.getElementById('large').open")
    assert chromium.run("return document.activeElement.className") == "open", "the focus returns"


DRIFTED = """const status = structuredClone(latest), door = status.drift.door;
Object.assign(door, {state: "drifted", drifted: ["scores"], since: "2026-01-01T00:00:00Z", examples: 2});
door.quantities.scores = {psi: 0.41, baseline: 0.72, now: 0.5};
show(status);
return [document.getElementById('notice').textContent, document.getElementById('large-drift-box').innerText,
  document.querySelectorAll('#large-examples a')[1].getAttribute('href')]"""


def test_drift_is_shown_with_links_to_examples(service: Running, chromium: Browser) -> None:
    service.until(lambda status: status["drift"])
    chromium.screen(1280, 900)
    chromium.open(f"http://127.0.0.1:{service.port}/")
    chromium.until(LIVE)
    chromium.run("document.querySelector('[data-camera=door] .open').click()")
    chromium.until("return document.getElementById('large-drift').innerText.includes('learning: 0 of 168 hours')")
    notice, text, link = chromium.run(DRIFTED)
    assert "door has drifted from its baseline: scores" in notice and link == "camera/door/drift/1.jpg"
    assert "scores (drifted)" in text and "0.72 → 0.5, index 0.41" in text
    assert violations(chromium) == []


def test_the_zone_the_line_and_the_track_are_drawn(service: Running) -> None:
    service.get("/camera/door.jpg")
    status, jpeg = service.get("/camera/door.jpg?after=1&max_age_ms=5000")
    assert status == 200
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    blue, green, red = (image[..., i].astype(int) for i in range(3))
    assert int(((red > 180) & (green > 150) & (blue < 110)).sum()) > image.shape[1], "the outline of the zone"
    assert int(((green > 190) & (red < 140) & (blue < 140)).sum()) > image.shape[0], "the line"


def test_pausing_is_refused_from_other_sites_and_for_other_names(service: Running) -> None:
    def post(path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        connection.request("POST", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        status, body = answer.status, answer.read()
        connection.close()
        return status, body

    for headers in (
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ):
        assert post("/camera/door/pause", **headers)[0] == 403
    assert post("/camera/cellar/pause") == (404, b'{"why": "no such camera: known here are door"}')
    assert post("/camera/door/explode")[0] == 404
    assert service.get("/camera/door/pause")[0] == 405
    service.until(lambda status: status["cameras"][0]["state"] == "live")
    assert json.loads(post("/camera/door/pause")[1]) == {"camera": "door", "paused": True}
    assert post("/camera/door/resume", Origin="http://127.0.0.1:1")[0] == 403, "another program of this machine"
    assert post("/camera/door/resume", Origin="http://proxy.local:1", Sec_Fetch_Site="cross-site")[0] == 403
    assert json.loads(post("/camera/door/resume", Origin="http://proxy.local:8443")[1])["paused"] is False
    assert json.loads(post("/camera/door/resume", Origin=f"http://127.0.0.1:{service.port}")[1])["paused"] is False


def test_unknown_hosts_are_refused_by_name_and_logged_once(service: Running) -> None:
    assert service.get("/status.json", Host="proxy.local:8443")[0] == 200
    for _ in range(3):
        status, body = service.get("/status.json", Host="evil.example")
        assert status == 403 and body == b"the host name 'evil.example' is not allowed: add it to service.web.hosts\n"
    assert service._log.read_text().count("'evil.example' is not allowed") == 1


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards /edge/PATH as /PATH, as a reverse proxy does."""

    service_port = 0

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.path.startswith("/edge/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        # Closed also where the browser has left: a write to it fails then.
        with closing(http.client.HTTPConnection("127.0.0.1", self.service_port, timeout=60)) as connection:
            connection.request(self.command, self.path.removeprefix("/edge"), body, headers)
            answer = connection.getresponse()
            body = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            self.send_header(key, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_page_works_below_a_path(service: Running, chromium: Browser) -> None:
    handler = type("Proxy", (_Proxy,), {"service_port": service.port})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chromium.log()
        chromium.open(f"http://127.0.0.1:{server.server_port}/edge/")
        chromium.until(LIVE)
        assert [line for line in chromium.log() if "Canvas2D" not in line] == []
        for link in chromium.run("return [...document.querySelectorAll('a')].map(link => link.href)"):
            assert "/edge/" in link
        chromium.run("document.querySelector('[data-camera=door] .open').click()")
        for state, other in (("paused", "Resume"), ("live", "Pause")):
            chromium.run("document.getElementById('large-pause').click()")
            service.until(lambda status, state=state: status["cameras"][0]["state"] == state)  # type: ignore[misc]
            chromium.until(f"return document.getElementById('large-pause').textContent === '{other}'")
        chromium.open("about:blank")
        server.shutdown()
