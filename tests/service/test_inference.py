"""POST /v1/detect: images in every form, what comes out, and what is refused."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from serving import Served, detector, multipart, served

from edgesparse.service.web import bodies, inference
from edgesparse.stream.requests import Requests

IMAGE = squares.image([(1, 1, 0), (5, 3, 1)])
PNG = cv2.imencode(".png", IMAGE)[1].tobytes()
JPEG = cv2.imencode(".jpg", IMAGE, (cv2.IMWRITE_JPEG_QUALITY, 100))[1].tobytes()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real engine: it detects squares of two colors."""
    with served(detector(tmp_path_factory.mktemp("squares"))) as serving:
        yield serving


@pytest.fixture
def idle(serving: Served) -> Iterator[Served]:
    """The same server with an engine that never runs."""
    serving.report.requests = Requests(threading.Event(), most=2)
    yield serving
    serving.report.requests = serving.loop.requests


def boxes(answer: tuple[int, Any, bytes]) -> list[list[tuple[str, list[float]]]]:
    """Return class and box of each detection of each image."""
    assert answer[0] == 200, answer
    images = json.loads(answer[2])["images"]
    return [sorted((each["class"], each["box"]) for each in image["detections"]) for image in images]


EXPECTED = [("green", [40.0, 24.0, 48.0, 32.0]), ("red", [8.0, 8.0, 16.0, 16.0])]


def test_jpeg_png_and_raw_pixels_give_the_same_boxes(serving: Served) -> None:
    assert boxes(serving.post("/v1/detect", PNG)) == [EXPECTED]
    assert boxes(serving.post("/v1/detect", JPEG, Content_Type="image/jpeg")) == [EXPECTED]
    assert boxes(serving.post("/v1/detect", JPEG, Content_Type="application/x-www-form-urlencoded")) == [EXPECTED]
    yuyv = cv2.cvtColor(IMAGE, cv2.COLOR_BGR2YUV_YUYV)
    planes = cv2.cvtColor(IMAGE, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    luma, quarter = squares.SIZE**2, squares.SIZE**2 // 4
    chroma = np.stack([planes[luma : luma + quarter], planes[luma + quarter :]], 1)
    raw = {"bgr": IMAGE, "rgb": IMAGE[..., ::-1], "yuyv": yuyv, "nv12": np.concatenate([planes[:luma], chroma.ravel()])}
    for pixels, data in raw.items():
        path = f"/v1/detect?width={squares.SIZE}&height={squares.SIZE}&pixels={pixels}"
        assert boxes(serving.post(path, data.tobytes())) == [EXPECTED], pixels


def test_several_images_in_one_request(serving: Served) -> None:
    other = cv2.imencode(".png", squares.image([]))[1].tobytes()
    body, kind = multipart(PNG, other, JPEG)
    assert boxes(serving.post("/v1/detect", body, Content_Type=kind)) == [EXPECTED, [], EXPECTED]


def test_the_annotated_image_comes_by_accept(serving: Served) -> None:
    for accept in ("image/png", "application/json;q=0.5, image/png", "text/html, image/png;q=0.9, */*;q=0.1"):
        status, headers, body = serving.post("/v1/detect", PNG, Accept=accept)
        assert (status, headers["content-type"], headers["x-detections"]) == (200, "image/png", "2")
        drawn = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert drawn is not None and drawn.shape == IMAGE.shape and not np.array_equal(drawn, IMAGE)
    assert serving.post("/v1/detect", PNG, Accept="image/*")[2].startswith(b"\xff\xd8\xff")
    assert boxes(serving.post("/v1/detect", PNG, Accept="*/*, image/webp")) == [EXPECTED]


def test_the_document_describes_every_path_and_every_response(serving: Served) -> None:
    document = json.loads(serving.get("/openapi.json")[2])
    validate(document)
    routes = {route.path for route in serving.web.doors if "version}" not in route.path}
    assert set(document["paths"]) | {"/openapi.json"} == routes
    schemas = {"components": document["components"]}

    def conforms(body: bytes, name: str) -> None:
        OAS31Validator({"$ref": f"#/components/schemas/{name}", **schemas}).validate(json.loads(body))

    conforms(serving.post("/v1/detect", PNG)[2], "Result")
    conforms(serving.post("/v1/detect", b"x")[2], "Error")
    parameters = {each["name"]: each["schema"] for each in document["paths"]["/v1/detect"]["post"]["parameters"]}
    assert parameters["deadline_ms"]["maximum"] == inference.LONGEST_DEADLINE_MS
    assert parameters["deadline_ms"]["default"] == inference.DEADLINE_MS


HUGE = b"\x89PNG\r\n\x1a\n" + PNG[8:16] + (100_000).to_bytes(4, "big") * 2 + PNG[24:]
TALL = cv2.imencode(".png", np.zeros((1000, 2, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("body", "query", "headers", "status", "why"),
    [
        (b"", "", {}, 415, "neither a JPEG nor a PNG"),
        (b"GIF89a", "", {}, 415, "neither a JPEG nor a PNG"),
        (PNG[:-20], "", {}, 400, "truncated"),
        (JPEG[:200], "", {}, 400, "truncated"),
        (HUGE, "", {}, 400, "checksum"),
        (TALL, "", {}, 400, "2x1000 pixels, needed sides of a ratio"),
        (b"x", "?width=64&height=64", {}, 400, "found 1 bytes, needed 12288"),
        (b"x", "?width=64", {}, 413, "64x0 pixels"),
        (b"x", "?width=99999&height=99999", {}, 413, "99999x99999 pixels"),
        (b"x", "?width=3&height=3&pixels=nv12", {}, 400, "needed even sides"),
        (b"x", "?width=2&height=2&pixels=cmyk", {}, 400, "found pixels=cmyk"),
        (b"x", "?width=-2&height=2", {}, 400, "width=-2, needed a whole number"),
        (PNG, "?deadline_ms=0", {}, 400, "needed 1 to"),
        (PNG, "?deadline_ms=99999", {}, 400, "needed 1 to"),
        (PNG, "", {"Accept": "text/html"}, 406, "needed Accept"),
        (PNG, "", {"Content_Encoding": "gzip"}, 415, "compressed"),
        (PNG, "", {"Content_Type": "multipart/form-data"}, 400, "without a boundary"),
        (PNG, "", {"Content_Type": "multipart/form-data; boundary=x"}, 400, "damaged multipart"),
        (b"--x--\r\n", "", {"Content_Type": "multipart/form-data; boundary=x"}, 400, "multipart"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(
    serving: Served, body: bytes, query: str, headers: dict[str, str], status: int, why: str
) -> None:
    refusal = serving.refusal(serving.post(f"/v1/detect{query}", body, **headers))
    assert refusal[0] == status and why in refusal[1]


def test_several_images_have_no_annotated_image(serving: Served) -> None:
    body, kind = multipart(PNG, PNG)
    refusal = serving.refusal(serving.post("/v1/detect", body, Content_Type=kind, Accept="image/jpeg"))
    assert refusal == (406, "found 2 images, needed one for Accept: image/jpeg, or application/json")


def test_a_full_queue_answers_429_and_a_missed_deadline_503(idle: Served) -> None:
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(idle.post, "/v1/detect?deadline_ms=300", PNG) for _ in range(2)]
        while len(idle.report.requests) < 2:
            time.sleep(0.01)
        refused = idle.post("/v1/detect", PNG)
        assert idle.refusal(refused) == (429, "2 images wait for the engine already: try again")
        assert refused[1]["retry-after"] == "1"
        for each in waiting:
            answer = each.result(60)
            assert idle.refusal(answer)[0] == 503 and answer[1]["retry-after"] == "1"
            assert "no result within 300 ms" in idle.refusal(answer)[1]


def test_a_body_that_is_too_large_or_too_slow_is_refused(serving: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MAX_BODY", 1 << 10)
    monkeypatch.setattr(inference, "BODY_SECONDS", 0.2)
    for head, body, status in [
        (b"Content-Length: 1025", b"", b"413"),
        (b"Content-Length: 99999999999", b"", b"413"),
        (b"Transfer-Encoding: chunked", b"401\r\n" + b"x" * 1025, b"413"),
        (b"Content-Length: 100", b"x", b"408"),
    ]:
        with socket.create_connection(("127.0.0.1", serving.web.port), 60) as wire:
            wire.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n" + body)
            assert wire.recv(65536).startswith(b"HTTP/1.1 " + status), head


def test_all_clients_together_hold_a_bounded_part_of_the_memory(
    serving: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "MAX_MEMORY", len(PNG) + 3 * squares.SIZE**2)
    length = f"Content-Length: {len(PNG) + 1}"
    with socket.create_connection(("127.0.0.1", serving.web.port), 60) as other:
        other.sendall(f"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode() + PNG)
        while (answer := serving.post("/v1/detect", PNG))[0] == 200:
            time.sleep(0.01)
        assert serving.refusal(answer)[0] == 429 and answer[1]["retry-after"] == "1"
        other.sendall(b"x")
        assert other.recv(65536).startswith(b"HTTP/1.1 ")
    assert boxes(serving.post("/v1/detect", PNG)) == [EXPECTED], "what the other held is free again"
    monkeypatch.setattr(inference, "MAX_MEMORY", len(PNG) + 3 * squares.SIZE**2 - 1)
    assert "the request and its decoded images" in serving.refusal(serving.post("/v1/detect", PNG))[1]


def test_the_memory_is_counted_right_from_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = inference.Memory()
    monkeypatch.setattr(inference, "MAX_MEMORY", 5)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def hold(_: int) -> int:
        most = 0
        for _ in range(2000):
            held = inference.Held(memory)
            with suppress(inference.Refusal):
                held.take(1)
                held.take(1)
            most = max(most, memory.bytes)
            held.release()
        return most

    try:
        with ThreadPoolExecutor(4) as threads:
            most = max(threads.map(hold, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert memory.bytes == 0 and 2 <= most <= 5


def test_images_beyond_the_bounds_are_refused(serving: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_PIXELS", squares.SIZE**2 - 1)
    assert serving.refusal(serving.post("/v1/detect", PNG))[0] == 413
    monkeypatch.undo()
    body, kind = multipart(*[PNG] * (bodies.MAX_IMAGES + 1))
    assert serving.refusal(serving.post("/v1/detect", body, Content_Type=kind))[0] == 413


def test_requests_wait_while_the_board_exceeds_a_limit_or_has_no_engine(serving: Served) -> None:
    governor, requests = serving.report.governor, serving.report.requests
    governor.share, governor.why = 0.5, "gpu is at 95 °C, limit 92"
    try:
        answer = serving.post("/v1/detect", PNG)
        assert serving.refusal(answer) == (503, "the frame rate is reduced: gpu is at 95 °C, limit 92")
        assert answer[1]["retry-after"] == "5"
        governor.share, serving.report.requests = 1.0, None
        assert serving.refusal(serving.post("/v1/detect", PNG))[0] == 503
    finally:
        governor.share, serving.report.requests = 1.0, requests


def test_without_the_setting_there_is_no_door(tmp_path: Path) -> None:
    with served(detector(tmp_path), started=False, inference=False) as closed:
        assert closed.post("/v1/detect", PNG)[0] == 404 and closed.get("/v2/health/ready")[0] == 404
        assert closed.get("/healthz")[0] == 200
