"""Events, clips, webhook, JSON lines: what is told, when, and what happens where it cannot be."""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import cv2
import hypothesis
import numpy as np
import pytest
from browser import free_port
from hypothesis import given
from hypothesis import strategies as some

from edgesparse.errors import ConfigError, SinkError
from edgesparse.runtime.detections import Detections
from edgesparse.service import settings
from edgesparse.service.outputs.all import Outputs
from edgesparse.service.outputs.clips import Clips
from edgesparse.service.outputs.events import Happening, Rules
from edgesparse.service.outputs.spool import Message, Spool
from edgesparse.service.outputs.webhook import Webhook
from edgesparse.service.settings import Event, Service
from edgesparse.service.snapshots import Snapshots
from edgesparse.stream.frames import Frame

NAMES = ("person", "dog")
SECOND = 1_000_000_000


def frame(seconds: float = 0.0, camera: str = "door", shape: tuple[int, int] = (96, 128)) -> Frame:
    image = np.full((*shape, 3), 90, np.uint8)
    return Frame(image, int(seconds * SECOND), int(seconds * 10), "demo", camera)


def found(*classes: int, conf: float = 0.9, zones: tuple[tuple[str, ...], ...] | None = None) -> Detections:
    count = len(classes)
    boxes = np.tile(np.array([10, 10, 60, 60], np.float32), (count, 1))
    return Detections(boxes, np.full(count, conf, np.float32), np.array(classes, np.int64), zones)


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.02)


def test_a_rule_asks_for_class_confidence_count_frames_and_camera() -> None:
    event = Event(name="two", classes=("person",), conf=0.5, cameras=("door",), count=2, frames=2, pause=5)
    rules = Rules([event], NAMES)
    assert rules(frame(0), found(0, 0)) == [], "not in two frames yet"
    assert rules(frame(1), found(0, 1)) == [], "one person: begun anew"
    assert rules(frame(2), found(0, 0)) == []
    assert [h.camera for h in rules(frame(3), found(0, 1, 0))] == ["door"]
    assert rules(frame(4), found(0, 0)) == [], "within the pause"
    assert [h.event for h in rules(frame(9), found(0, 0))] == ["two"]
    assert rules(frame(20, "yard"), found(0, 0)) == [] == rules(frame(21, "yard"), found(0, 0))
    assert rules(frame(30), found(0, 0, conf=0.4)) == [] == rules(frame(31), found(0, 0, conf=0.4))


def test_a_rule_in_a_zone_and_what_it_tells() -> None:
    rules = Rules([Event(name="gate", zones=("gate",))], NAMES)
    assert rules(frame(0), found(0)) == []
    (happening,) = rules(frame(1), found(0, 1, zones=((), ("gate",))))
    assert (happening.event, happening.camera) == ("gate", "door")
    assert happening.record["event"] == "gate" and happening.record["camera"] == "door"
    detections: Any = happening.record["detections"]
    assert [detection["class"] for detection in detections] == ["dog"], "only what matched"


def test_a_rule_with_a_class_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"service.events: x: classes: no class 'persn': did you mean 'person'\?"):
        Rules([Event(name="x", classes=("persn",))], NAMES)


@pytest.fixture
def snapshots() -> Iterator[Snapshots]:
    made = Snapshots(settings.Snapshots(fps=10), NAMES)
    yield made
    made.close()


def test_nothing_is_copied_while_nobody_looks(snapshots: Snapshots) -> None:
    for step in range(20):
        snapshots.offer("door", frame(step / 10), found(0))
    assert snapshots._held["door"].image.size == 0 and snapshots.viewed == 0
    assert snapshots.look("door") is None and snapshots.viewed == 1


def test_boxes_are_drawn_on_a_smaller_snapshot(snapshots: Snapshots) -> None:
    snapshots.change(settings.Snapshots(width=64), NAMES)
    snapshots.offer("door", frame(0), found(0))
    snapshots.look("door")
    for step in range(1, 8):
        snapshots.offer("door", frame(step), found(0))
        time.sleep(0.05)
    until(lambda: snapshots.look("door"))
    snapshot = snapshots.look("door")
    assert snapshot is not None and snapshot.found == 1
    image = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape == (48, 64, 3)
    assert np.abs(image[30].astype(int) - 90).max() > 60, "a box's sides"


def test_a_frame_of_another_size_finds_new_memory(snapshots: Snapshots) -> None:
    snapshots.offer("door", frame(0), found())
    snapshots.look("door")
    for shape in ((96, 128), (48, 64), (200, 300)):
        until(partial(_offered, snapshots, shape))


def _offered(snapshots: Snapshots, shape: tuple[int, int]) -> bool:
    snapshots.offer("door", frame(time.monotonic(), shape=shape), found())
    snapshot = snapshots.look("door")
    if snapshot is None:
        return False
    image = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return image is not None and image.shape[:2] == shape


def test_the_frame_loop_never_waits_for_an_encoder(snapshots: Snapshots) -> None:
    snapshots.offer("door", frame(0), found())
    snapshots.look("door")
    held = snapshots._held["door"]
    with held.lock:  # as if the encoder had it for long
        snapshots.offer("door", frame(1), found())
    assert not held.fresh


def test_watching_takes_no_memory_in_the_frame_loop() -> None:
    """But for the one copy that is there when somebody begins to look; the encoder's thread is stopped here."""
    snapshots = Snapshots(settings.Snapshots(fps=10), NAMES)
    snapshots.offer("door", frame(0, shape=(540, 960)), found(0))
    snapshots.look("door")
    until(lambda: _offered(snapshots, (540, 960)))
    snapshots.close()
    seen, looked = frame(shape=(540, 960)), found(0)
    tracemalloc.start()
    for _ in range(50):
        seen.time_ns = time.monotonic_ns() + SECOND
        snapshots._held["door"].looked = time.monotonic()
        snapshots.offer("door", seen, looked)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert snapshots._held["door"].fresh and peak < 20_000


def clips(tmp_path: Path, **said: Any) -> Clips:
    return Clips(settings.Clips(**{"before": 1, "after": 1, **said}), tmp_path / "clips", 10)


def feed(made: Clips, begin: float, seconds: float, camera: str = "door") -> None:
    from edgesparse.service.snapshots import Snapshot

    jpeg = bytes(cv2.imencode(".jpg", frame().image)[1])
    for step in range(int(seconds * 10)):
        made.snapshot(camera, Snapshot(jpeg, int((begin + step / 10) * SECOND), step, 0))


def happened(seconds: float, camera: str = "door") -> Happening:
    return Happening("person", camera, int(seconds * SECOND), {})


def test_a_clip_holds_what_was_before_and_after(tmp_path: Path) -> None:
    made = clips(tmp_path)
    feed(made, 0, 5)
    made.happened(happened(5))
    feed(made, 5, 3)
    until(lambda: made.output.sent == 1)
    (path,) = (tmp_path / "clips").iterdir()
    assert path.name.endswith("Z_door_person.mp4")
    film = cv2.VideoCapture(str(path))
    assert 18 <= film.get(cv2.CAP_PROP_FRAME_COUNT) <= 22 and film.get(cv2.CAP_PROP_FPS) == 10
    film.release()
    made.close()


def test_an_event_that_comes_again_makes_the_clip_longer_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesparse.service.outputs.clips.LONGEST_SECONDS", 4.0)
    made = clips(tmp_path)
    for second in range(12):
        made.happened(happened(second))
        feed(made, second, 1)
    made.close()
    assert made.output.sent >= 3
    for path in (tmp_path / "clips").iterdir():
        film = cv2.VideoCapture(str(path))
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) <= 42
        film.release()


def test_the_oldest_clips_make_room(tmp_path: Path) -> None:
    made = clips(tmp_path, most=3)
    (tmp_path / "clips" / "mine.mp4").write_text("not a clip of ours")
    for second in range(0, 50, 10):
        feed(made, second, 1)
        made.happened(happened(second + 1))
        feed(made, second + 1, 2)
        expected = second // 10 + 1
        until(lambda: made.output.sent == expected)  # noqa: B023, until returns before the next turn
        time.sleep(0.002)
    kept = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert len(kept) == 4 and "mine.mp4" in kept
    made.close()


def test_a_clip_that_is_being_gathered_is_written_at_the_end(tmp_path: Path) -> None:
    made = clips(tmp_path)
    feed(made, 0, 2)
    made.happened(happened(2))
    made.close()
    assert made.output.sent == 1


@pytest.mark.root
def test_a_full_disk_is_said_and_nothing_is_left(small_disk: Path) -> None:
    made = Clips(settings.Clips(before=1, after=1), small_disk, 10)
    feed(made, 0, 2)
    made.happened(happened(2))
    feed(made, 2, 2)
    until(lambda: made.output.failed == 1)
    assert "less than 64 MB are free" in made.output.state and list(small_disk.iterdir()) == []
    made.close()


class Hook:
    """A server for webhooks; what it answers is said by the test."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, Any], str | None]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = hook.answers.pop(0) if hook.answers else 200
                if code == 200:
                    hook.got.append((body, self.headers.get("Authorization")))
                self.send_response(code)
                self.send_header("Location", f"http://127.0.0.1:{hook.port}/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr("edgesparse.service.outputs.webhook.FIRST_PAUSE", 0.05)
    made = Hook()
    yield made
    made.close()


def numbered(number: int) -> Happening:
    return Happening("person", "door", 0, {"n": number})


def test_a_webhook_is_tried_until_it_is_taken_in_order(hook: Hook, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc")
    token.chmod(0o600)
    hook.answers = [500, 503, 429, 200, 500, 200]
    webhook = Webhook(settings.Webhook(url=f"http://127.0.0.1:{hook.port}/hook?key=1", token_file=token))
    for number in range(5):
        webhook.put(numbered(number))
    until(lambda: len(hook.got) == 5)
    assert hook.got == [({"n": number}, "Bearer abc") for number in range(5)]
    until(lambda: webhook.output.sent == 5)
    assert (webhook.output.failed, webhook.output.dropped, webhook.output.state) == (4, 0, "")
    webhook.close()


def test_what_is_refused_for_good_is_dropped_and_redirects_are_not_followed(hook: Hook) -> None:
    hook.answers = [404, 302]
    webhook = Webhook(settings.Webhook(url=f"http://127.0.0.1:{hook.port}/hook"))
    for number in range(3):
        webhook.put(numbered(number))
    until(lambda: webhook.output.sent == 1)
    assert [body["n"] for body, _ in hook.got] == [2] and webhook.output.dropped == 2
    webhook.close()


def test_a_webhook_that_is_away_is_bounded_and_closed_in_time(caplog: pytest.LogCaptureFixture) -> None:
    webhook = Webhook(settings.Webhook(url=f"http://u:secret@127.0.0.1:{free_port()}/hook?key=secret", queue=3))
    for number in range(10):
        webhook.put(numbered(number))
    until(lambda: webhook.output.failed)
    assert webhook.output.dropped == 7
    begun = time.monotonic()
    webhook.close()
    assert time.monotonic() - begun < 3 and webhook.output.dropped == 10
    assert "does not answer" in caplog.text and "secret" not in caplog.text


def test_json_lines_are_turned_over_and_go_on_after_a_restart(tmp_path: Path, snapshots: Snapshots) -> None:
    file = tmp_path / "found.jsonl"
    said = Service(jsonl=settings.Lines(file=file, most=1_000_000))
    for run in range(2):
        outputs = Outputs(said, NAMES, snapshots)
        for step in range(3):
            outputs.write(frame(run * 3 + step), found(0))
        outputs.close()
    assert [json.loads(line)["frame"] for line in file.read_text().splitlines()] == [0, 10, 20, 30, 40, 50]
    outputs = Outputs(Service(jsonl=settings.Lines(file=file)), NAMES, snapshots)
    outputs._lines._handler.maxBytes = 1000  # type: ignore[union-attr]
    for step in range(10):
        outputs.write(frame(step), found(0))
    outputs.close()
    assert (tmp_path / "found.jsonl.1").stat().st_size <= 2000


def test_lines_that_cannot_be_written_are_counted(snapshots: Snapshots) -> None:
    outputs = Outputs(Service(jsonl=settings.Lines(file=Path("/dev/full"))), NAMES, snapshots)
    outputs.write(frame(), found(0))
    assert outputs.states()[0].failed == 1
    outputs.close()


def test_what_cannot_be_opened_is_one_line_and_leaves_nothing_open(tmp_path: Path, snapshots: Snapshots) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    said = Service(
        events=(Event(name="e"),), clips=settings.Clips(folder=blocked / "x"), webhook=settings.Webhook(url="http://x")
    )
    before = threading.active_count()
    with pytest.raises(SinkError, match="cannot write"):
        Outputs(said, NAMES, snapshots)
    until(lambda: threading.active_count() <= before)


def test_a_spool_that_is_damaged_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sqlite"
    path.write_bytes(os.urandom(20_000))
    spool = Spool(path, 1_000_000)
    spool.append([Message(1, "t", b"{}")])
    assert spool.count == 1 and (tmp_path / "mqtt.damaged").exists()
    spool.close()


@pytest.mark.root
def test_a_spool_on_a_full_disk_counts_what_is_lost_and_goes_on(small_disk: Path) -> None:
    spool = Spool(small_disk / "x.sqlite", 64_000_000)
    for number in range(1, 100):
        spool.append([Message(number, "t", bytes(100_000))])
    assert spool.dropped > 50 and spool.count == 99 - spool.dropped
    kept = spool.after(0, 1000)
    assert [message.number for message in kept] == list(range(1, len(kept) + 1)), "those that fitted, in order"
    spool.remove(kept)
    assert spool.after(0, 1) == [] or spool.count > 0
    spool.close()


@hypothesis.settings(max_examples=25, deadline=None)
@given(sizes=some.lists(some.integers(0, 3000), max_size=60), most=some.integers(2000, 20_000))
def test_a_spool_keeps_the_newest_in_order_within_its_bound(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "x.sqlite", most)
    messages = [Message(number, "t", b"x" * size) for number, size in enumerate(sizes, 1)]
    for message in messages:
        spool.append([message])
    kept = spool.after(0, 1000)
    assert [m.number for m in kept] == [m.number for m in messages[len(messages) - len(kept) :]]
    assert sum(m.size for m in kept) <= most
    assert spool.dropped == len(messages) - len(kept) and spool.count == len(kept)
    spool.remove(kept[:3])
    assert spool.count == max(0, len(kept) - 3)
    spool.close()
