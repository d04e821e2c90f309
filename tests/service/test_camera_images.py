"""Live images of a camera: how old they may be, and Motion JPEG with real clients."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from camera import SIDE, NetworkCamera
from running import Running


@pytest.fixture(scope="module")
def camera() -> Iterator[NetworkCamera]:
    camera = NetworkCamera()
    yield camera
    camera.off()


@pytest.fixture(scope="module")
def service(
    squares_package: Path, camera: NetworkCamera, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    cameras = [{"name": "door", "source": camera.url.replace("//", "//user:secret@")}]
    running = Running(tmp_path_factory.mktemp("live"), squares_package, {"run": {"cameras": cameras}})
    running.until(lambda status: status["detecting"])
    yield running
    running.stop()
    running.close()


def watch(service: Running, path: str = "/camera/door.mjpg", method: str = "GET") -> socket.socket:
    wire = socket.create_connection(("127.0.0.1", service.port), 60)
    wire.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return wire


def test_opencv_reads_the_stream(service: Running) -> None:
    """Through FFmpeg, like Home Assistant's ffmpeg camera. Frames differ, since the square moves."""
    capture = cv2.VideoCapture(f"http://127.0.0.1:{service.port}/camera/door.mjpg", cv2.CAP_FFMPEG)
    images = [capture.read()[1] for _ in range(4)]
    capture.release()
    assert all(image.shape == (SIDE, SIDE, 3) for image in images)
    assert any((image != images[0]).any() for image in images[1:])


def test_the_parts_of_a_stream_are_new_images(service: Running) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/camera/door.mjpg", timeout=60) as answer:
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=edgesparse"
        data = b""
        while data.count(b"--edgesparse\r\n") < 4:
            data += answer.read1()
    images = re.findall(rb"Content-Length: \d+\r\n\r\n(\xff\xd8.*?\xff\xd9)\r\n--", data, re.DOTALL)
    assert len(images) == 3 and len(set(images)) == 3


def test_viewers_that_never_read_delay_nobody(service: Running) -> None:
    hung = [watch(service) for _ in range(8)]
    try:
        for _ in range(5):
            status, jpeg = service.get("/camera/door.jpg?max_age_ms=2000")
            assert status == 200 and jpeg.startswith(b"\xff\xd8")
        before = service.status()["cameras"][0]["frames"]
        service.until(lambda status: status["cameras"][0]["frames"] > before + 15)
    finally:
        for wire in hung:
            wire.close()


def test_only_so_many_streams_are_open_at_once(service: Running) -> None:
    wires = [watch(service) for _ in range(16)]
    try:
        for wire in wires:
            assert b" 200 " in wire.recv(1024)
        status, text = service.get("/camera/door.mjpg")
        assert (status, text) == (503, b"16 streams are being watched already\n")
    finally:
        for wire in wires:
            wire.close()


def test_requests_that_cannot_be_served(service: Running) -> None:
    assert service.get("/camera/gate.mjpg")[0] == service.get("/camera/gate.jpg")[0] == 404
    assert service.get("/camera/door.jpg?max_age_ms=-1")[0] == service.get("/camera/door.jpg?after=x")[0] == 400
    with watch(service, method="HEAD") as wire:
        assert b" 200 " in wire.recv(4096), "and no body without end"
    status, text = service.get("/camera/door.jpg?max_age_ms=0")
    assert status == 503 and re.match(
        r"no new image of at most 0 ms: the newest is \d+ ms old", json.loads(text)["why"]
    )


def test_an_image_of_a_camera_that_is_away_is_not_passed_off_as_live(service: Running, camera: NetworkCamera) -> None:
    assert service.get("/camera/door.jpg?max_age_ms=5000")[0] == 200
    camera.off()
    service.until(lambda status: status["cameras"][0]["state"] == "away")
    time.sleep(1)  # the last image is older than that now
    status, text = service.get("/camera/door.jpg")
    why = json.loads(text)["why"]
    assert status == 503 and why.startswith("the camera is away: ") and "secret" not in why
    status, jpeg = service.get("/camera/door.jpg?max_age_ms=60000")
    assert status == 200 and jpeg.startswith(b"\xff\xd8"), "who asks for an older one gets it"
