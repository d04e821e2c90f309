"""A camera's password appears nowhere: not in a log, a status, a summary or an output, whatever fails."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rtsp import RtspServer
from test_cameras import Recorder, make_detector

from edgesparse.config import Camera
from edgesparse.errors import SourceError
from edgesparse.stream.pipeline import Loop
from edgesparse.stream.sinks.json_lines import JsonLines
from edgesparse.stream.sources.open import open_source

USER, PASSWORD = "admin-7f3", "p4ss-e91"
SECRETS = (USER, PASSWORD)


def with_credentials(url: str) -> str:
    return url.replace("://", f"://{USER}:{PASSWORD}@") + f"?password={PASSWORD}"


@pytest.mark.rtsp
def test_through_every_failure_of_a_camera(
    rtsp_server: RtspServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    observer, stop, out = Recorder(), threading.Event(), io.StringIO()
    url = with_credentials(rtsp_server.url)
    cameras = [Camera(name="hall", source=url), Camera(name="nowhere", source=with_credentials("rtsp://127.0.0.1:9/x"))]
    with redirect_stdout(out), JsonLines("-", ("person", "cat", "dog")) as sink:
        with Loop.of(cameras, make_detector(tmp_path), [sink], observer=observer, stop=stop) as loop:
            reports: list[object] = []
            runs = threading.Thread(target=lambda: reports.append(loop.run()), daemon=True)
            runs.start()
            for fail, repair in failures(rtsp_server):
                wait_for(observer, "live")
                fail()
                wait_for(observer, "away")
                repair()
            wait_for(observer, "live")
            stop.set()
            runs.join()
    statuses = [repr(status) for _, turn in observer.updates for status in turn]
    texts = [*caplog.messages, *statuses, out.getvalue(), str(reports), *capfd.readouterr()]
    whys = {status.why for _, turn in observer.updates for status in turn}
    assert len(caplog.messages) >= 8 and len(whys) >= 4 and json.loads(out.getvalue().splitlines()[0])
    assert not [text for text in texts if any(secret in text for secret in SECRETS)]


def failures(server: RtspServer) -> list[tuple[Callable[[], None], Callable[[], None]]]:
    def ways(word: str) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: server.tell(word, "video"), lambda: server.tell("play", "video")

    return [(server.kill, server.start), ways("stall"), ways("garbage"), ways("freeze")]


def wait_for(observer: Recorder, state: str) -> None:
    end = time.monotonic() + 60
    while not observer.updates or observer.updates[-1][1][0].state != state:
        assert time.monotonic() < end, f"not {state} in a minute"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://{}:{}@127.0.0.1:9/x",
        "rtsp://{}:{}@127.0.0.1:9/x?password={}",
        "rtsp://{}:a/{}@127.0.0.1:9/x",
        "rtsp://{}:a?{}@127.0.0.1:9/x",
        "rtsp://{}:a[{}@127.0.0.1:9/x",
        "rtsp://127.0.0.1:9/user={}_password={}/x",
        "http://{}:{}@127.0.0.1:9/x.mjpg",
        "rtmp://{}:{}@127.0.0.1:9/x",
        "udp://{}:{}@256.0.0.1:99999",
        "foo://{}:{}@host",
    ],
)
def test_in_messages_about_an_address_that_fails(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(url.format(USER, PASSWORD, PASSWORD))
    texts = [str(caught.value), *capfd.readouterr()]
    assert not [text for text in texts if any(secret in text for secret in SECRETS)]
