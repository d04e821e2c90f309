"""Access control of the web page, and that no visitor can harm the service."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import pytest
import squares
from camera import NetworkCamera
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from prometheus_client.parser import text_string_to_metric_families
from running import Running

SMALL = {"cameras": [{"name": "camera", "source": "demo", "size": "160x120"}]}
TOKEN = "a-token-of-this-test-0123456789"
PATHS = (
    *(
        "/",
        "/page.js",
        "/drift.js",
        "/page.css",
        "/status.json",
        "/live.json",
        "/metrics",
        "/healthz",
        "/readyz",
        "/report",
    ),
    *("/openapi.json", "/v2", "/v2/health/ready", "/v2/models/squares", "/v2/models/squares/versions/1/ready"),
)


@pytest.fixture(scope="module")
def service(squares_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for all tests of this file: no visitor may affect the next."""
    camera = NetworkCamera()
    running = Running(
        tmp_path_factory.mktemp("open"),
        squares_package,
        {
            "run": {
                "cameras": [{"name": "door", "source": camera.url.replace("//", "//user:secret@") + "?key=secret"}]
            },
            "service": {"drift": {"interval": 1}},
        },
    )
    running.until(lambda status: status["detecting"])
    yield running
    running.stop()
    running.close()
    camera.off()


@pytest.fixture(scope="module")
def guarded(squares_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with a token."""
    folder = tmp_path_factory.mktemp("guarded")
    token = folder / "web.token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    web = {"host": "0.0.0.0", "token_file": "web.token"}
    running = Running(folder, squares_package, {"run": SMALL, "service": {"web": web}})
    running.until(lambda status: status["detecting"])
    yield running
    running.close()


def test_the_answers_to_all_paths(service: Running) -> None:
    assert b"data-camera" not in service.get("/")[1] and b"page.js" in service.get("/")[1]
    assert json.loads(service.get("/healthz")[1]) == {"healthy": True, "why": ""}
    assert json.loads(service.get("/readyz")[1]) == {"ready": True, "why": ""}
    status = json.loads(service.get("/status.json")[1])
    assert status["cameras"][0]["state"] == "live" and status["model"] == "squares"
    live = json.loads(service.get("/live.json")[1])
    assert live["engine"]["why"] and live["history"]
    assert b"squares" in service.get("/report")[1]
    assert [service.get(path)[0] for path in PATHS] == [200] * len(PATHS)


def test_a_camera_that_is_watched_for_drift_learns_its_baseline(service: Running) -> None:
    state = service.until(lambda status: status["drift"])["drift"]["door"]
    assert state["state"] == "learning" and state["quantities"]["scores"]["psi"] is None
    assert 'edgesparse_drifted{camera="door"} 0.0' in service.get("/metrics")[1].decode()
    assert [service.get(f"/camera/{name}/drift/0.jpg")[0] for name in ("door", "yard")] == [404, 404]


def test_images_of_http_clients_are_answered_beside_the_camera(service: Running) -> None:
    frames = service.status()["frames"]
    png = cv2.imencode(".png", squares.image([(1, 1, 0)]))[1].tobytes()
    for _ in range(5):
        status, body = service.post("/v1/detect", png)
        assert status == 200 and [each["class"] for each in body["images"][0]["detections"]] == ["red"]
    later = service.until(lambda status: status["frames"] > frames)
    assert [camera["name"] for camera in later["cameras"]] == ["door"], "they are no camera"


def test_snapshots_are_encoded_while_somebody_views_them(service: Running) -> None:
    first = snapshot(service, 0)
    assert first >= 1 and snapshot(service, first) > first, "after=N returns a newer one"
    assert "edgesparse_watched_cameras 1.0" in service.get("/metrics")[1].decode()
    time.sleep(4)
    assert "edgesparse_watched_cameras 0.0" in service.get("/metrics")[1].decode()


def snapshot(service: Running, after: int) -> int:
    """Return the number of the next snapshot; 204 means that there is none yet."""
    end = time.monotonic() + 60
    while not (answer := raw(service, request(f"/camera/door.jpg?after={after}"))).startswith(b"HTTP/1.1 200 "):
        assert answer.startswith(b"HTTP/1.1 204 ") and time.monotonic() < end, answer[:100]
    assert b"\xff\xd8" in answer
    return int(re.findall(rb"x-snapshot: (\d+)", answer)[0])


def test_metrics_can_be_read_by_prometheus(service: Running) -> None:
    families = {family.name: family for family in text_string_to_metric_families(service.get("/metrics")[1].decode())}
    names = {
        "frames", "dropped_frames", "reconnects", "camera_up", "stage_seconds", "frame_age_seconds", "detections",
        "engine_info", "sparse_layers", "fallback", "inference_errors", "memory_resident_bytes",
        "memory_available_bytes",
        "temperature_celsius", "rate_share", "output_messages", "healthy", "detecting", "reloads",
    }  # fmt: skip
    assert {f"edgesparse_{name}" for name in names} <= families.keys() | {f"{name}_info" for name in families}
    stages = {s.labels["stage"] for s in families["edgesparse_stage_seconds"].samples}
    assert stages == {"capture", "preprocess", "engine", "decode", "nms", "track", "sinks", "total"}
    ages = [s for s in families["edgesparse_frame_age_seconds"].samples if s.name.endswith("_bucket")]
    assert [s.value for s in ages] == sorted(s.value for s in ages) and ages[-1].value > 0


def test_credentials_are_shown_nowhere(service: Running) -> None:
    for path in PATHS:
        assert b"secret" not in service.get(path)[1], path
    assert "secret" not in "\n".join(service.notify.lines())
    assert "secret" not in (service.folder / f"log-{service.port}").read_text()
    assert b"secret" not in (service.folder / "runtime" / "status.json").read_bytes()


def test_without_the_token_every_path_is_refused(guarded: Running) -> None:
    for path in (*PATHS, "/camera/camera.jpg", "/nothing"):
        assert guarded.get(path) == (401, b""), path
    assert guarded.post("/v1/detect", b"x") == (401, "")
    wrong = base64.b64encode(b"me:wrong").decode()
    for header in ("Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {wrong}", "Basic !", f"Digest {TOKEN}", TOKEN):
        assert guarded.get("/status.json", Authorization=header) == (401, b""), header


def test_the_token_as_bearer_or_password_is_accepted(guarded: Running) -> None:
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    for header in (f"Bearer {TOKEN}", f"Basic {basic}", f"basic {basic}"):
        assert guarded.get("/status.json", Authorization=header)[0] == 200


def test_another_site_cannot_point_a_browser_here(service: Running) -> None:
    """DNS rebinding: an attacker's host name that resolves to this machine."""
    assert service.get("/status.json", Host="evil.example")[0] == 403
    assert service.get("/status.json", Host=f"localhost:{service.port}")[0] == 200


def raw(service: Running, data: bytes, seconds: float = 60.0) -> bytes:
    """Send bytes and return the response."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as wire:
        answer = b""
        try:
            wire.sendall(data)
            while part := wire.recv(65536):
                answer += part
        except OSError:
            pass
        return answer


def request(path: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n".encode("latin-1")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/camera/..%2f..%2fetc%2fpasswd.jpg",
        "/camera/../../../etc/passwd.jpg",
        "/camera/door.jpg%00",
        "/camera/" + "a" * 4000 + ".jpg",
        "//etc/passwd",
        "/report/../manifest.json",
        "/page.html",
    ],
)
def test_hostile_paths(service: Running, path: str) -> None:
    answer = raw(service, request(path))
    assert re.match(rb"HTTP/1.1 (404|400|307) ", answer), answer[:200]
    assert b"root:" not in answer and b"build_id" not in answer


@pytest.mark.parametrize("after", ["-1", "1e9", "9" * 400, "%00", "nan", "' or 1=1"])
def test_hostile_numbers(service: Running, after: str) -> None:
    assert re.match(rb"HTTP/1.1 (200|204|400) ", raw(service, request(f"/camera/door.jpg?after={after}")))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "X" * 20])
def test_only_get_and_head_are_allowed(service: Running, method: str) -> None:
    assert raw(service, request("/", method)).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"".join(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-%d: y\r\n" % i for i in range(20_000)),
        b"GET " + b"/" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + b"a" * 2_000_000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 10_000,
    ],
)
def test_hostile_sizes(service: Running, data: bytes) -> None:
    raw(service, data, 3)
    assert service.get("/healthz")[0] == 200


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.binary(max_size=400) | some.text("GET/ HTP1.:\r\nhost%ab", max_size=200).map(str.encode))
def test_any_bytes(service: Running, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as wire:
        wire.sendall(data)
    assert service.process.poll() is None


def test_idle_connections_are_closed(service: Running) -> None:
    """A hundred connections without a request: those beyond the limit are closed immediately, the rest within
    seconds."""
    idle = [socket.create_connection(("127.0.0.1", service.port), timeout=60) for _ in range(100)]
    time.sleep(3)
    before = service.status()["frames"]
    closed = 0
    for wire in idle:
        try:
            closed += wire.recv(1) == b""
        except ConnectionResetError:
            closed += 1
        wire.close()
    assert closed == 100
    service.until(lambda status: status["frames"] > before)
    assert service.get("/healthz")[0] == 200


def test_hostile_rates_do_not_slow_the_frame_loop(service: Running) -> None:
    """Eight visitors send requests as fast as they can; the camera's frames are still processed."""

    def rate(seconds: float) -> float:
        first, begin = service.status()["frames"], time.monotonic()
        time.sleep(seconds)
        return float((service.status()["frames"] - first) / (time.monotonic() - begin))

    quiet = rate(3)
    over = threading.Event()
    counts: list[int] = []

    def hammer() -> None:
        count = 0
        while not over.is_set():
            with suppress(OSError):
                raw(service, request("/metrics"), 5)
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    busy = rate(4)
    over.set()
    for thread in threads:
        thread.join()
    assert sum(counts) < 8 * 120, "requests are rate-limited"
    assert busy > quiet / 3, f"found {busy:.1f} frames per second, {quiet:.1f} before"
    assert service.until(lambda status: status["healthy"] and status["detecting"])


def test_memory_stays_bounded(service: Running) -> None:
    """Runs after all other tests of this file."""
    status: dict[str, Any] = service.status()
    assert status["memory_mb"] < 400
