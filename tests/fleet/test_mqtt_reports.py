"""Reports over MQTT, with a real mosquitto: devices store them, and the table is read from there."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion

sys.path.append(str(Path(__file__).parents[1] / "service"))
from broker import MOSQUITTO, Broker

from edgesparse.cli import verbs
from edgesparse.errors import DeployError
from edgesparse.fleet import mqtt_reports, reports
from edgesparse.fleet.mqtt_reports import broker as parsed
from edgesparse.fleet.mqtt_reports import topic_of
from edgesparse.mqtt_client import BoundedClient
from edgesparse.progress import quiet

needs_mosquitto = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto"),
]
MANY = 1000
"""Ten times what the broker queues for a reader."""


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setattr(mqtt_reports, "QUIET_SECONDS", 0.2)
    broker = Broker(tmp_path, "allow_anonymous true\nmax_queued_messages 100")
    yield broker
    broker.off()


def report(device: str, **changes: Any) -> reports.Report:
    fields = {"device": device, "time": time.time(), "result": "deployed", "version": "1.0", "healthy": True}
    return reports.Report(**{**fields, **changes})


def publish(port: int, messages: dict[str, str]) -> None:
    """Store retained messages, by topic."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent = [client.publish(topic, text, qos=1, retain=True) for topic, text in messages.items()]
    for each in sent:
        each.wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


class TestBroker:
    pytestmark = needs_mosquitto

    def test_the_newest_report_of_each_device_is_in_the_table(self, broker: Broker, tmp_path: Path) -> None:
        address = f"mqtt://127.0.0.1:{broker.port}/plant/fleet"
        reports.send(report("north-1", result="nothing to do", version="0.9"), address)
        reports.send(report("north-1"), address)
        reports.send(report("north-2", time=time.time() - 7200), address)
        reports.send(report("north-3", time=time.time() + 7200), address)
        ours = ("north-4", "north-5", "north-6")
        topics = [topic_of("plant/fleet", name) for name in ours]
        other = report("else").model_dump_json()
        publish(broker.port, {topics[0]: "{", topics[1]: other, topics[2]: "x" * 100_000, "plant/fleet/zz/a": other})
        page = tmp_path / "fleet.html"
        done = CliRunner().invoke(verbs, ["fleet", "status", address, "--json", "--html", str(page)])
        assert done.exit_code == 0, done.exception
        rows = {row["device"]: (row["state"], row["why"]) for row in json.loads(done.stdout)["devices"]}
        assert rows.pop("north-1") == ("healthy", "") and rows.pop("north-2") == ("late", "")
        assert rows.pop("north-3") == ("bad report", "its clock is 120 min ahead: set it")
        assert rows.pop("north-5") == ("bad report", "it is a report of else")
        assert rows.pop("north-6") == ("bad report", "it has 100000 bytes, more than 65536")
        assert [state for state, _ in rows.values()] == ["bad report"]
        assert "1 of 6 healthy" in page.read_text()

    def test_none_of_more_devices_than_a_broker_queues_is_missing(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = report("a").model_dump_json() + " " * 12000  # beyond what the sockets hold
        topics = (topic_of("edgesparse/fleet", f"d{n}") for n in range(MANY))
        publish(broker.port, dict.fromkeys(topics, text))
        names: set[str] = set()

        def take(device: str, data: bytes) -> None:
            time.sleep(0.001)  # a reader that is slower than the broker
            names.add(device)

        mqtt_reports.read(f"mqtt://127.0.0.1:{broker.port}", take, quiet)
        assert len(names) == MANY

    def test_devices_that_report_meanwhile_neither_hold_it_up_nor_count_twice(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mqtt_reports, "ANSWER_SECONDS", 2.0)
        monkeypatch.setattr(mqtt_reports, "QUIET_SECONDS", 0.3)
        topic, ended = topic_of("edgesparse/fleet", "busy"), threading.Event()
        publish(broker.port, {topic: report("busy", version="0").model_dump_json()})
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", broker.port)

        def poll() -> None:
            while not ended.wait(0.05):
                client.publish(topic, report("busy", version="1").model_dump_json(), retain=True)
                client.loop(0.01)

        thread = threading.Thread(target=poll)
        thread.start()
        try:
            rows = reports.read(f"mqtt://127.0.0.1:{broker.port}", quiet)
        finally:
            ended.set()
            thread.join()
            client.disconnect()
        assert [(row.device, row.report and row.report.version) for row in rows] == [("busy", "1")]

    def test_a_report_that_cannot_be_sent_is_one_line(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        lost = paho.MQTTMessageInfo(1)
        lost.rc = paho.MQTT_ERR_CONN_LOST
        monkeypatch.setattr(BoundedClient, "publish", lambda *_, **__: lost)
        with pytest.raises(DeployError, match=r"cannot use the broker mqtt://.*: The connection was lost"):
            reports.send(report("a"), f"mqtt://127.0.0.1:{broker.port}")

    def test_a_refusal_is_one_line_without_the_password(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "users").write_text("")
        broker = Broker(tmp_path, f"password_file {tmp_path}/users")
        try:
            with pytest.raises(DeployError, match="the broker refuses: Not authorized") as refused:
                reports.send(report("a"), f"mqtt://me:hunter2@127.0.0.1:{broker.port}/fleet")
        finally:
            broker.off()
        assert "hunter2" not in str(refused.value)
        with pytest.raises(
            DeployError, match=r"cannot use the broker mqtt://127\.0\.0\.1:\d+/fleet: Connection refused"
        ):
            reports.read(f"mqtt://me:hunter2@127.0.0.1:{broker.port}/fleet", quiet)

    def test_encryption_is_verified(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import https
        from broker import free_port

        https._certificate(tmp_path, -1)
        port = free_port()
        tls = f"allow_anonymous true\nlistener {port} 127.0.0.1\ncertfile {tmp_path}/ca.pem\nkeyfile {tmp_path}/ca.key"
        broker, address = Broker(tmp_path, tls), f"mqtts://127.0.0.1:{port}/fleet"
        monkeypatch.setattr(mqtt_reports, "QUIET_SECONDS", 0.2)
        try:
            with pytest.raises(DeployError, match="self-signed certificate"):
                reports.send(report("a"), address)
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            reports.send(report("a"), address)
            assert [row.device for row in reports.read(address, quiet)] == ["a"]
        finally:
            broker.off()


@pytest.mark.parametrize("address", ["mqtt:///fleet", "mqtts://host/a/+/b", "mqtts://host/a?b=c", "mqtt://host:x/a"])
def test_an_address_that_is_none_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(DeployError, match="needed mqtts://HOST/TOPIC"):
        parsed(address)


def test_an_address_has_defaults_and_credentials() -> None:
    at = parsed("mqtts://me:p%40ss@host")
    assert (at.host, at.port, at.topic, at.tls, at.username, at.password) == (
        *("host", 8883, "edgesparse/fleet", True),
        *("me", "p@ss"),
    )
    assert at.where == "mqtts://host"
