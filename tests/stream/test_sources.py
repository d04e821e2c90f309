"""What a source's name means, and what is said of one that isn't there."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesparse.errors import CameraUnavailable, SourceError
from edgesparse.stream.sources import captures
from edgesparse.stream.sources.captures import open_camera
from edgesparse.stream.sources.open import open_source
from edgesparse.stream.sources.v4l2 import found_cameras


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (-1, r"no camera -1: cameras are numbered from 0"),
        ("", r"no source: name a camera"),
        ("missing.mp4", r"no source missing\.mp4: no such file, folder or camera"),
        ("missing/*.jpg", r"no images match missing/\*\.jpg: found 0 files"),
        ("foo://x", r"cannot open foo://x: an address starts with one of rtsp, "),
        ("csi://a", r"csi://a names no camera"),
    ],
)
def test_a_wrong_name_is_one_line_and_wrong_use(spec: str | int, message: str) -> None:
    with pytest.raises(SourceError, match=f"^{message}") as caught:
        open_source(spec)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("files", [0, 2])
def test_a_folder_without_images(tmp_path: Path, files: int) -> None:
    for number in range(files):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(SourceError, match=rf"no images in .*: found {files} entries, none ending in \.bmp") as caught:
        open_source(tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("spec", ["77", 77, "/dev/video77"])
def test_a_camera_that_is_not_there(spec: str | int) -> None:
    with pytest.raises(CameraUnavailable) as caught:
        open_source(spec)
    assert str(caught.value) == f"no camera 77: /dev/video77 does not exist; {found_cameras()}"
    assert caught.value.exit_code == 3


def test_a_device_that_is_no_camera(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CameraUnavailable, match="cannot open /dev/null: it is no camera; found: "):
        open_source("/dev/null")
    assert capfd.readouterr() == ("", "")


def test_a_camera_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "video0"
    device.touch()
    monkeypatch.setattr(captures.os, "access", lambda path, mode: False)
    with pytest.raises(CameraUnavailable, match=r"no permission to open .*video0: .* sudo usermod -aG \w+ \$USER"):
        open_camera(device, None, None)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_address_that_does_not_answer_hides_its_password(scheme: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CameraUnavailable) as caught:
        open_source(f"{scheme}://user:secret@127.0.0.1:9/x?key=secret")
    assert str(caught.value) == f"cannot open {scheme}://127.0.0.1:9/x: is the address right and the camera on?"
    assert capfd.readouterr() == ("", "")


def test_a_video_over_http_is_a_file_with_an_end(tmp_path: Path) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for _ in range(12):
        writer.write(cv2.UMat(48, 64, cv2.CV_8UC3).get())
    writer.release()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with open_source(f"http://127.0.0.1:{server.server_port}/clip.mp4") as source:
            assert not source.live
            assert len(list(source)) == source.total == 12
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_demo_is_a_live_camera_of_a_seed() -> None:
    with open_source("demo:7") as source, open_source("demo:7", size=(320, 240)) as small:
        assert (source.name, source.live, source.fps, source.total) == ("demo:7", True, 30.0, None)
        first, second = source.read(), source.read()
        assert first is not None and second is not None
        assert first.image.shape == (480, 640, 3)
        assert second.time_ns - first.time_ns > 0
        frame = small.read()
        assert frame is not None and frame.image.shape == (240, 320, 3)


class Mjpeg:
    """A camera that sends JPEG images of `shape` in one HTTP answer without end, a brighter one each time."""

    def __init__(self) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        self.shape = (48, 64, 3)
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):
                    for number in range(10**6):
                        data = cv2.imencode(".jpg", np.full(camera.shape, number % 250, np.uint8))[1].tobytes()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        time.sleep(0.02)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://user:secret@127.0.0.1:{self.server.server_port}/video.mjpg?key=secret"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.mark.parametrize("patient", [False, True])
def test_images_over_http_are_a_live_camera(patient: bool) -> None:
    camera = Mjpeg()
    try:
        with open_source(camera.url, patient=patient) as source:
            assert source.live and "secret" not in source.name
            levels = []
            for _ in range(10):
                frame = source.read()
                assert frame is not None and frame.image.shape == (48, 64, 3)
                levels.append(int(frame.image[0, 0, 0]))
        assert levels == sorted(levels) and levels[-1] > levels[0]
    finally:
        camera.close()


def test_another_size_in_mid_stream_is_noticed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenCV would hide it: it scales to the size that it was opened with."""
    caplog.set_level(logging.INFO, "edgesparse.stream")
    camera = Mjpeg()
    try:
        with open_source(camera.url, patient=True) as source:
            for shape in ((48, 64, 3), (96, 64, 3), (48, 64, 3)):
                camera.shape = shape
                changed = time.monotonic()
                while (frame := source.read()) is None or frame.image.shape != shape:
                    assert time.monotonic() < changed + 20
                for _ in range(5):
                    frame = source.read()
                    assert frame is not None and frame.image.shape == shape
        assert source.reopened == 2
    finally:
        camera.close()
    lost = [line for line in caplog.messages if "gives no frames" in line]
    assert all("(its images have another size or format now)" in line for line in lost) and len(lost) == 2
    assert "secret" not in caplog.text and capfd.readouterr() == ("", "")
