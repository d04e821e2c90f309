"""MQTT against a real mosquitto that is stopped and restarted. Last run with mosquitto 2.0.11 of Debian 12."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from broker import MOSQUITTO, Broker, Subscriber
from browser import free_port
from samples import output_context, wait_until

from edgesparse.errors import ConfigError
from edgesparse.service.outputs.mqtt import Mqtt
from edgesparse.service.outputs.mqtt_settings import MqttSettings

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto"),
]
Publish = Callable[..., Mqtt]


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker.port)
    yield subscriber
    subscriber.close()


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    monkeypatch.setattr("edgesparse.service.outputs.mqtt.LONGEST_PAUSE", 0.5)
    opened: list[Mqtt] = []

    def publish(port: int, **changes: Any) -> Mqtt:
        opened.append(Mqtt(MqttSettings(host="127.0.0.1", port=port, **changes), output_context(tmp_path)))
        return opened[-1]

    yield publish
    for mqtt in opened:
        mqtt.close()


def numbers(mqtt: Mqtt, start: int, stop: int, pause: float = 0.0) -> None:
    for number in range(start, stop):
        mqtt.put("door/detections", partial(json.dumps, {"n": number}))
        time.sleep(pause)


def counted(records: list[Any]) -> list[int]:
    return [record["n"] for record in records]


def test_nothing_is_lost_and_the_order_is_kept_across_restarts(
    broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    """The broker is stopped twice while messages are published: every message arrives, and first deliveries are in
    order."""
    mqtt = publisher(broker.port)
    feeding = threading.Thread(target=numbers, args=(mqtt, 0, 1500, 0.002))
    feeding.start()
    subscriber.until(100, "door/detections")
    broker.off()
    wait_until(lambda: mqtt.state.state.startswith("away: "))
    broker.on()
    subscriber.until(500, "door/detections")
    broker.off()
    time.sleep(0.5)
    broker.on()
    feeding.join()
    records = counted(subscriber.until(1500, "door/detections"))
    assert records == list(range(1500))
    wait_until(lambda: mqtt.state.waiting == 0)
    assert mqtt.state.dropped == 0 and mqtt.state.sent >= 1500


def test_a_broker_that_starts_later(tmp_path: Path, publisher: Publish) -> None:
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


def test_the_oldest_messages_beyond_the_bound_are_dropped_and_counted(
    broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    mqtt = publisher(broker.port, spool=1_000_000)
    broker.off()
    filling = "x" * 2000
    for number in range(1000):
        mqtt.put("door/detections", partial(json.dumps, {"n": number, "filling": filling}))
    wait_until(lambda: mqtt.state.dropped + mqtt.state.waiting == 1000 and mqtt.state.waiting < 500)
    broker.on()
    kept = 1000 - mqtt.state.dropped
    assert 400 < kept < 500
    assert counted(subscriber.until(kept, "door/detections")) == list(range(1000 - kept, 1000))


def test_undelivered_messages_are_delivered_by_the_next_process(
    broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    broker.off()
    mqtt = publisher(broker.port)
    numbers(mqtt, 0, 50)
    begin = time.monotonic()
    mqtt.close()
    assert time.monotonic() - begin < 8
    broker.on()
    again = publisher(broker.port)
    numbers(again, 50, 60)
    assert counted(subscriber.until(60, "door/detections")) == list(range(60))


def test_a_killed_process_loses_nothing_that_was_on_disk(
    tmp_path: Path, broker: Broker, subscriber: Subscriber, publisher: Publish
) -> None:
    broker.off()
    program = (
        "import json, sys, time; from functools import partial; from pathlib import Path\n"
        "from edgesparse.service.outputs.base import OutputContext\n"
        "from edgesparse.service.outputs.mqtt import Mqtt\n"
        "from edgesparse.service.outputs.mqtt_settings import MqttSettings\n"
        "from edgesparse.service.snapshots import SnapshotSettings\n"
        "context = OutputContext(Path(sys.argv[2]), 'test', SnapshotSettings())\n"
        "mqtt = Mqtt(MqttSettings(host='127.0.0.1', port=int(sys.argv[1])), context)\n"
        "for n in range(100): mqtt.put('door/detections', partial(json.dumps, {'n': n}))\n"
        "while mqtt._spool.count < 100 or mqtt._backlog.in_memory: time.sleep(0.01)\n"
        "print('kept', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(broker.port), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "kept\n"
        process.kill()
    broker.on()
    publisher(broker.port)
    assert counted(subscriber.until(100, "door/detections")) == list(range(100))


def test_the_broker_knows_whether_the_service_is_online(broker: Broker, publisher: Publish) -> None:
    """By a retained message, or by the last will if the service cannot send one."""
    mqtt = publisher(broker.port, topic="plant/line-1")
    subscriber = Subscriber(broker.port, "plant/line-1/#")
    wait_until(
        lambda: ("plant/line-1/status", b"online", True) in subscriber.received or _statuses(subscriber) == [b"online"]
    )
    mqtt.close()
    wait_until(lambda: _statuses(subscriber)[-1:] == [b"offline"])
    subscriber.close()


def test_a_wrong_password_is_reported(tmp_path: Path, publisher: Publish) -> None:
    passwords, mine = tmp_path / "passwords", tmp_path / "mine"
    mine.write_text("wrong\n")
    mine.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "cam", "right"], check=True)
    broker = Broker(tmp_path, f"allow_anonymous false\npassword_file {passwords}")
    mqtt = publisher(broker.port, username="cam", password_file=mine)
    wait_until(lambda: "authori" in mqtt.state.state)
    mqtt.put("door/detections", partial(json.dumps, {"n": 0}))
    wait_until(lambda: mqtt.state.waiting == 1)
    broker.off()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho does not close its socket
def test_over_tls(tmp_path: Path, publisher: Publish) -> None:
    """With a certificate created here; without it the broker is refused, and the state has the reason."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    names = ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names], check=True, capture_output=True)
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
    wait_until(lambda: stranger.state.waiting == 5 and stranger.state.state.startswith("away: "))
    assert "certificate" in stranger.state.state
    subscriber.close()
    broker.off()


def test_closing_does_not_wait_for_a_broker_that_never_answers(publisher: Publish) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mqtt = publisher(silent.getsockname()[1])
        numbers(mqtt, 0, 10)
        time.sleep(0.3)
        begin = time.monotonic()
        mqtt.close()
        assert time.monotonic() - begin < 8
        assert mqtt.state.waiting == 10


def _statuses(subscriber: Subscriber) -> list[bytes]:
    return [payload for topic, payload, _ in subscriber.received if topic.endswith("/status")]


def test_a_bad_ca_file_is_refused_before_anything_is_opened(tmp_path: Path, publisher: Publish) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"service.mqtt.ca_file: .*ca.pem holds no certificates in PEM format"):
        publisher(free_port(), tls=True, ca_file=bad)
    assert not (tmp_path / "spool").exists()


def test_any_exception_leaves_a_state_and_the_thread_alive(
    broker: Broker, subscriber: Subscriber, publisher: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    mqtt = publisher(free_port())
    wait_until(lambda: mqtt.state.state.startswith("away"))

    def fail() -> None:
        raise RuntimeError("as a library may")

    monkeypatch.setattr(mqtt, "_client", fail)
    wait_until(lambda: mqtt.state.state == "failed: RuntimeError: as a library may")
    numbers(mqtt, 0, 10)
    monkeypatch.undo()
    mqtt._settings = mqtt._settings.model_copy(update={"port": broker.port})
    assert counted(subscriber.until(10, "door/detections")) == list(range(10))
    assert mqtt._thread.is_alive()
