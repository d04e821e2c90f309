"""MQTT against a real mosquitto that is stopped and started again. Last run here on Debian 12's mosquitto 2.0.11."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import MOSQUITTO, Broker, Subscriber
from browser import free_port

from edgesparse.service.outputs.mqtt import Mqtt
from edgesparse.service.settings import Mqtt as Said

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto"),
]
Publish = Callable[..., Mqtt]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.off()


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker.port)
    yield subscriber
    subscriber.close()


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    monkeypatch.setattr("edgesparse.service.outputs.mqtt.LONGEST_PAUSE", 0.5)
    made: list[Mqtt] = []

    def make(port: int, **said: Any) -> Mqtt:
        made.append(Mqtt(Said(host="127.0.0.1", port=port, **said), tmp_path / "spool" / "mqtt.sqlite", "test"))
        return made[-1]

    yield make
    for mqtt in made:
        mqtt.close()


def numbers(mqtt: Mqtt, start: int, stop: int, pause: float = 0.0) -> None:
    for number in range(start, stop):
        mqtt.put("door/detections", {"n": number})
        time.sleep(pause)


def counted(records: list[Any]) -> list[int]:
    return [record["n"] for record in records]


def test_nothing_is_lost_and_order_is_kept_over_restarts(
    broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    """Stopped twice while messages go on coming: each arrives, its first time in order."""
    mqtt = publisher(broker.port)
    feeding = threading.Thread(target=numbers, args=(mqtt, 0, 1500, 0.002))
    feeding.start()
    subscriber.until(100, "door/detections")
    broker.off()
    time.sleep(0.8)
    assert mqtt.output.state == "away"
    broker.on()
    subscriber.until(500, "door/detections")
    broker.off()
    time.sleep(0.5)
    broker.on()
    feeding.join()
    found = counted(subscriber.until(1500, "door/detections"))
    assert found == list(range(1500))
    _until(lambda: mqtt.output.waiting == 0)
    assert mqtt.output.dropped == 0 and mqtt.output.sent >= 1500


def test_a_broker_that_is_not_there_at_first(tmp_path: Path, publisher: Publish) -> None:
    broker = Broker(tmp_path)
    broker.off()
    mqtt = publisher(broker.port)
    numbers(mqtt, 0, 300)
    time.sleep(0.5)
    broker.on()
    subscriber = Subscriber(broker.port)
    numbers(mqtt, 300, 400)
    assert counted(subscriber.until(400, "door/detections"))[-100:] == list(range(300, 400))
    subscriber.close()
    broker.off()


def test_the_oldest_are_dropped_beyond_the_bound_and_counted(
    broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    mqtt = publisher(broker.port, spool=1_000_000)
    broker.off()
    filling = "x" * 2000
    for number in range(1000):
        mqtt.put("door/detections", {"n": number, "filling": filling})
    _until(lambda: mqtt.output.dropped + mqtt.output.waiting == 1000 and mqtt.output.waiting < 500, 20)
    broker.on()
    kept = 1000 - mqtt.output.dropped
    assert 400 < kept < 500
    assert counted(subscriber.until(kept, "door/detections")) == list(range(1000 - kept, 1000))


def test_what_was_not_delivered_is_delivered_by_the_next_process(
    broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    broker.off()
    mqtt = publisher(broker.port)
    numbers(mqtt, 0, 50)
    begun = time.monotonic()
    mqtt.close()
    assert time.monotonic() - begun < 4
    broker.on()
    again = publisher(broker.port)
    numbers(again, 50, 60)
    assert counted(subscriber.until(60, "door/detections")) == list(range(60))


def test_a_process_that_is_killed_loses_nothing_that_was_on_disk(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    broker.off()
    program = (
        "import sys, time; from pathlib import Path; from edgesparse.service.outputs.mqtt import Mqtt; "
        "from edgesparse.service.settings import Mqtt as Said\n"
        "mqtt = Mqtt(Said(host='127.0.0.1', port=int(sys.argv[1])), Path(sys.argv[2]), 'test')\n"
        "for n in range(100): mqtt.put('door/detections', {'n': n})\n"
        "while mqtt._spool.count < 100 or mqtt._incoming: time.sleep(0.01)\n"
        "print('kept', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(broker.port), str(tmp_path / "spool" / "mqtt.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "kept\n"
        process.kill()
    broker.on()
    publisher(broker.port)
    assert counted(subscriber.until(100, "door/detections")) == list(range(100))


def test_its_state_is_known_to_the_broker(broker: Broker, publisher: Publish) -> None:
    """Retained, and by its last will where it could not say so itself."""
    mqtt = publisher(broker.port, topic="plant/line-1")
    subscriber = Subscriber(broker.port, "plant/line-1/#")
    _until(lambda: ("plant/line-1/status", b"online", True) in subscriber.heard or _said(subscriber) == [b"online"])
    mqtt.close()
    _until(lambda: _said(subscriber)[-1:] == [b"offline"])
    subscriber.close()


def test_a_wrong_password_is_said(tmp_path: Path, publisher: Publish) -> None:
    passwords, mine = tmp_path / "passwords", tmp_path / "mine"
    mine.write_text("wrong\n")
    mine.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "cam", "right"], check=True)
    broker = Broker(tmp_path, f"allow_anonymous false\npassword_file {passwords}")
    mqtt = publisher(broker.port, username="cam", password_file=mine)
    _until(lambda: "authori" in mqtt.output.state)
    mqtt.put("door/detections", {"n": 0})
    _until(lambda: mqtt.output.waiting == 1)
    broker.off()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves a refused one to Python
def test_over_tls(tmp_path: Path, publisher: Publish) -> None:
    """With a certificate that was made here; one that nobody knows is refused."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    named = ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *named], check=True, capture_output=True)
    plain = free_port()
    broker = Broker(
        tmp_path, f"allow_anonymous true\ncertfile {certificate}\nkeyfile {key}\nlistener {plain} 127.0.0.1"
    )
    subscriber = Subscriber(plain)
    mqtt = publisher(broker.port, tls=True, ca_file=certificate)
    numbers(mqtt, 0, 200)
    assert counted(subscriber.until(200, "door/detections")) == list(range(200))
    mqtt.close()
    stranger = publisher(broker.port, tls=True)
    numbers(stranger, 0, 5)
    _until(lambda: stranger.output.waiting == 5 and stranger.output.state == "away")
    subscriber.close()
    broker.off()


def test_closing_does_not_wait_for_a_broker_that_never_answers(publisher: Publish) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mqtt = publisher(silent.getsockname()[1])
        numbers(mqtt, 0, 10)
        time.sleep(0.3)
        begun = time.monotonic()
        mqtt.close()
        assert time.monotonic() - begun < 4
        assert mqtt.output.waiting == 10


def _said(subscriber: Subscriber) -> list[bytes]:
    return [payload for topic, payload, _ in subscriber.heard if topic.endswith("/status")]


def _until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
