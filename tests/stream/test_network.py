"""Cameras on the network: each kind of refusal has its own message, snapshots are polled, wrong passwords back off."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hand_camera import Camera as HandCamera
from hand_camera import until
from http_cameras import Camera, serving_files, serving_half
from rtsp_responder import RtspResponder

from edgesparse import config
from edgesparse.errors import AuthenticationFailed, CameraUnavailable, SourceError
from edgesparse.stream.cameras import open_feeds
from edgesparse.stream.sources import capture_worker
from edgesparse.stream.sources.live import LiveSource
from edgesparse.stream.sources.network import check_url
from edgesparse.stream.sources.open import open_source


@pytest.fixture
def responder() -> Iterator[Callable[[int], RtspResponder]]:
    responders = []

    def start(status: int) -> RtspResponder:
        responders.append(RtspResponder(status))
        return responders[-1]

    yield start
    for each in responders:
        each.close()


# RTSP


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "401, wrong user name or password"),
        (403, "403, this user may not view it"),
        (404, "404, the camera has no stream at this path"),
        (453, "453, no bandwidth left for another viewer: close one, or take a smaller stream"),
        (461, "461, the camera does not offer TCP: set 'transport: udp'"),
        (503, "503, the camera is busy or still starting"),
    ],
)
def test_each_rtsp_status_has_its_own_words(
    responder: Callable[[int], RtspResponder], status: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    camera = responder(status)
    with pytest.raises(CameraUnavailable) as caught:
        open_source(camera.url())
    assert str(caught.value) == f"cannot open rtsp://127.0.0.1:{camera.port}/stream: {words}"
    assert isinstance(caught.value, AuthenticationFailed) == (status in (401, 403))
    assert caught.value.exit_code == 3
    assert capfd.readouterr() == ("", "")


def test_a_missing_password_is_requested(responder: Callable[[int], RtspResponder]) -> None:
    with pytest.raises(AuthenticationFailed, match="401, it requires a user name and password, as in rtsp://USER:"):
        open_source(responder(401).url(credentials=""))


def test_over_udp_the_other_transport_is_named(responder: Callable[[int], RtspResponder]) -> None:
    with pytest.raises(CameraUnavailable, match=r"461, the camera does not offer UDP: set 'transport: tcp'$"):
        open_source(responder(461).url(), transport="udp")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", "connection refused: is the port right, and is RTSP enabled on the camera?"),
        ("no-such-camera.invalid", "unknown host no-such-camera.invalid"),
    ],
)
def test_a_camera_that_cannot_be_reached_is_named_with_the_reason(address: str, words: str) -> None:
    with pytest.raises(CameraUnavailable) as caught:
        open_source(f"rtsp://user:secret@{address}/x?key=secret")
    assert str(caught.value) == f"cannot open rtsp://{address}/x: {words}"


def test_a_camera_that_accepts_and_says_nothing_gives_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(CameraUnavailable, match="does not answer"):
            open_source(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x")


@pytest.mark.parametrize(
    ("url", "sign", "code"),
    [
        ("rtsp://user:pass#word@10.0.0.7/x", "#", "%23"),
        ("rtsp://user:123#45@10.0.0.7:554/x", "#", "%23"),
        ("rtsp://user:pass/word@10.0.0.7/x", "/", "%2F"),
        ("http://user:pass?word@10.0.0.7/x.mjpg", "?", "%3F"),
    ],
)
def test_a_sign_in_the_password_with_another_meaning_is_named(url: str, sign: str, code: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(url, patient=True)
    shown = url.partition("://")[0]
    message = f"the password contains '{sign}', which has another meaning in an address; write it as {code}"
    assert str(caught.value) == f"cannot open {shown}://...: {message}"


@pytest.mark.parametrize("url", ["rtsp://", "http://user@/x", "rtsp://:554/x"])
def test_an_address_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match=r"it names no host; write [a-z]+://HOST/PATH"):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "udp://:1234",
        "rtsp://user:pass%23word@10.0.0.7/x",
        "rtsp://10.0.0.7:554/user=a@b",
        "rtsp://10.0.0.7/x?mail=a@b#c",
        "rtsp://user:p[1]!&@10.0.0.7/x",
        "rtsp://[fe80::1]:554/x",
    ],
)
def test_other_addresses_are_accepted(url: str) -> None:
    check_url(url)


def test_a_wrong_password_is_tried_once_and_then_minutes_later(
    responder: Callable[[int], RtspResponder], caplog: pytest.LogCaptureFixture
) -> None:
    camera = responder(401)
    with open_source(camera.url(), patient=True) as source:
        until(lambda: source.state == "away")
        time.sleep(3)
        assert camera.attempts == 1
        assert source.why.endswith("401, wrong user name or password; retrying in a few minutes")
    assert "secret" not in caplog.text


def test_pauses_after_a_refusal_are_minutes_and_end_with_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    failures: list[Exception | None] = [*[AuthenticationFailed("401")] * 6, CameraUnavailable("off"), None]
    camera = HandCamera()

    def opener() -> Any:
        if (failure := failures.pop(0) if failures else None) is not None:
            raise failure
        return camera.open()

    monkeypatch.setattr(capture_worker.CaptureWorker, "pause", lambda self, seconds: pauses.append(seconds))
    with LiveSource("camera", opener, patient=True) as source:
        camera.frames.put(1)
        until(lambda: source.state == "live")
        camera.frames.put(False)
    assert pauses[:7] == [60, 120, 240, 480, 600, 600, capture_worker.PAUSE_FIRST]


def test_changed_settings_are_tried_immediately(responder: Callable[[int], RtspResponder]) -> None:
    camera, run = responder(401), config.Run()
    before = config.Camera(name="hall", source=camera.url())
    (old,) = open_feeds([before], run, (), patient=True)
    until(lambda: old.source.state == "away")
    (same,) = open_feeds([before], run, (), patient=True, old=[old])
    assert same.source is old.source and camera.attempts == 1
    after = config.Camera(name="hall", source=camera.url("user:other@"))
    (new,) = open_feeds([after], run, (), patient=True, old=[old])
    until(lambda: camera.attempts == 2)
    for feed in (old, new):
        feed.source.close()


def test_a_change_of_the_transport_opens_the_camera_again() -> None:
    tcp = config.Camera(name="hall", source="rtsp://10.0.0.7/x")
    assert tcp.transport == "tcp" and tcp.opens_like(tcp.model_copy(update={"rate": 5}))
    assert not tcp.opens_like(tcp.model_copy(update={"transport": "udp"}))


# HTTP


@pytest.mark.parametrize("path", ["/video.mjpg", "/image.jpg", "/snap.cgi"])
@pytest.mark.parametrize(
    ("status", "words"), [(404, "404, the camera has no stream"), (503, "503, the camera is busy")]
)
def test_each_http_status_has_its_own_words(path: str, status: int, words: str) -> None:
    camera = Camera()
    camera.status = status
    with camera.serving() as address, pytest.raises(CameraUnavailable, match=words) as caught:
        open_source(address + path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("digest", [False, True])
@pytest.mark.parametrize("path", ["/image.jpg", "/snap.cgi"])
def test_snapshots_with_a_password(path: str, digest: bool) -> None:
    camera = Camera()
    camera.login, camera.digest = "user:secret", digest
    with camera.serving() as address, open_source(address + path, fps=20) as source:
        frame = source.read()
    assert frame is not None and frame.image.shape == (48, 64, 3) and "secret" not in source.name


@pytest.mark.parametrize("digest", [False, True])
@pytest.mark.parametrize("path", ["/image.jpg", "/snap.cgi", "/video.mjpg"])
def test_a_wrong_password_over_http_is_sent_once_or_twice(path: str, digest: bool) -> None:
    camera = Camera()
    camera.login, camera.digest = "admin:other", digest
    with camera.serving() as address:
        with pytest.raises(AuthenticationFailed, match="401, wrong user name or password"):
            open_source(address + path)
    assert 1 <= sum(camera.requests) <= 2


@pytest.mark.parametrize("path", ["/image.jpg?size=4", "/snap.cgi"])
def test_single_images_are_polled(path: str) -> None:
    camera = Camera()
    with camera.serving() as address, open_source(address + path, fps=20) as source:
        started = time.monotonic()
        levels = []
        for _ in range(10):
            frame = source.read()
            assert frame is not None and frame.live
            levels.append(int(frame.image[0, 0, 0]))
        assert source.fps == 20 and time.monotonic() - started > 0.3
    assert levels == sorted(set(levels))


def test_a_cgi_address_may_be_a_stream() -> None:
    with Camera().serving() as address, open_source(f"{address}/axis.cgi") as source:
        frames = [source.read() for _ in range(5)]
    assert all(frame is not None and frame.image.shape == (48, 64, 3) for frame in frames)


def test_an_address_that_does_not_answer_hides_its_password(capfd: pytest.CaptureFixture[str]) -> None:
    for path in ("x", "x.jpg"):
        with pytest.raises(CameraUnavailable) as caught:
            open_source(f"http://user:secret@127.0.0.1:9/{path}?key=secret")
        assert str(caught.value).startswith(f"cannot open http://127.0.0.1:9/{path}: connection refused")
    assert capfd.readouterr() == ("", "")


def test_a_video_over_http_is_a_file_with_an_end(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    make_video("clip.mp4", frames=12)
    with serving_files(tmp_path) as address:  # type: ignore[attr-defined]
        with open_source(f"http://{address}/clip.mp4") as source:
            assert not source.live
            assert len(list(source)) == source.total == 12


def test_a_video_over_http_whose_server_stops_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgesparse.stream.sources.network.OPEN_SECONDS", 1)
    monkeypatch.setattr("edgesparse.stream.sources.video_file.LONGEST_SKIP_SECONDS", 0.5)
    data = make_video("clip.avi", frames=200, noise=True).read_bytes()
    with serving_half(data) as address, open_source(f"http://{address}/clip.avi") as source:
        started = time.monotonic()
        frames = len(list(source))
    assert 10 < frames < 200 and time.monotonic() - started < 20
    assert f"ends early: found {frames} frames of 200" in caplog.text


@pytest.mark.parametrize("patient", [False, True])
def test_motion_jpeg_over_http_is_a_live_camera(patient: bool) -> None:
    with Camera().serving() as address:
        with open_source(f"{address}/video.mjpg?key=secret", patient=patient) as source:
            assert source.live and "secret" not in source.name
            levels = []
            for _ in range(10):
                frame = source.read()
                assert frame is not None and frame.image.shape == (48, 64, 3)
                levels.append(int(frame.image[0, 0, 0]))
        assert levels == sorted(levels) and levels[-1] > levels[0]


def test_a_change_of_size_in_mid_stream_is_noticed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenCV would hide the change: it scales to the size at which the stream was opened."""
    caplog.set_level(logging.INFO, "edgesparse.stream")
    camera = Camera()
    with camera.serving() as address:
        with open_source(f"{address}/video.mjpg", patient=True) as source:
            for shape in ((48, 64, 3), (96, 64, 3), (48, 64, 3)):
                camera.shape = shape
                changed = time.monotonic()
                while (frame := source.read()) is None or frame.image.shape != shape:
                    assert time.monotonic() < changed + 20
                for _ in range(5):
                    frame = source.read()
                    assert frame is not None and frame.image.shape == shape
        assert source.reopened == 2
    lost = [line for line in caplog.messages if "delivers no frames" in line]
    assert all("(the size or format of its images has changed)" in line for line in lost) and len(lost) == 2
    assert "secret" not in caplog.text and capfd.readouterr() == ("", "")
