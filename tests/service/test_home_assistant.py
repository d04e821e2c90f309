"""Topics for Home Assistant: through a real mosquitto, and into a real Home Assistant if one is installed.

Last run with Home Assistant 2025.1.4 on Python 3.13: python3.13 -m venv ha; ha/bin/pip install homeassistant==2025.1.4
paho-mqtt==1.6.1; HOME_ASSISTANT_PYTHON=ha/bin/python pytest tests/service/test_home_assistant.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
from broker import MOSQUITTO, Broker, Subscriber
from paho.mqtt import publish
from samples import LINE, NAMES, counting, sample_detections, sample_frame, wait_until

from edgesparse.camera import Camera
from edgesparse.service.in_view import Viewed
from edgesparse.service.outputs.base import FrameResult, OutputContext, Scene
from edgesparse.service.outputs.events import EventRule, EventRules
from edgesparse.service.outputs.mqtt import Mqtt
from edgesparse.service.outputs.mqtt_settings import MqttSettings
from edgesparse.service.snapshots import Snapshot, SnapshotSettings

HOME_ASSISTANT = os.environ.get("HOME_ASSISTANT_PYTHON")
pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto"),
]
GATE: Any = ((0, 0), (1, 0), (1, 1), (0, 1))
DOOR = Camera(name="door", source="demo", zones={"gate": GATE})
RULE = EventRule(name="person-at-gate", classes=("person",), zones=("gate",), end_after=0)
JPEG = b"\xff\xd8 a JPEG"


def scene(*cameras: Camera, names: tuple[str, ...] = NAMES) -> Scene:
    return Scene(names, cameras, rules=(RULE,))


def state(**camera: Any) -> dict[str, Any]:
    """A status.json with one camera."""
    door = {"name": "door", "state": "live", "why": "", "fps": 9.8, "age_ms": 12.0}
    counts = {"frames": 100, "dropped": 0, "reopened": 0}
    figures = {"model": "yolo", "precision": "int8", "latency_ms": {"p50": 7.5, "p99": 9.0}, "temperature_c": 51.5}
    health = {"detecting": True, "healthy": True, "why": "", "fallback": False, "watts": None}
    return {**figures, **health, "cameras": [{**door, **counts, **camera}]}


class Watched:
    """The service's part for one camera and an MQTT output."""

    def __init__(self, mqtt: Mqtt) -> None:
        self.mqtt, self.viewed, self.rules = mqtt, Viewed(), EventRules((RULE,), NAMES)

    def see(self, second: float, *classes: int) -> None:
        detections = sample_detections(*classes, zones=(("gate",),) * len(classes))
        frame = sample_frame(second)
        self.mqtt.detections(FrameResult(frame, detections, NAMES))
        for event in self.rules(frame, detections):
            self.mqtt.event(event)
            self.mqtt.snapshot("door", Snapshot(JPEG, frame.time_ns, 1, len(classes), requested=True))
        for event in self.rules.ended(frame.time_ns, ["door"]):
            self.mqtt.event(event)
        counts = self.viewed.add("door", detections) or self.viewed.settle(["door"]).get("door")
        if counts is not None:
            self.mqtt.in_view("door", counts)


@pytest.fixture
def paused() -> dict[str, int]:
    return {}


@pytest.fixture
def mqtt(broker: Broker, tmp_path: Path, paused: dict[str, int]) -> Iterator[Mqtt]:
    settings = MqttSettings(host="127.0.0.1", port=broker.port, discovery="homeassistant")
    mqtt = Mqtt(settings, OutputContext(tmp_path, "orin-1", SnapshotSettings(), paused))
    mqtt.scene(scene(DOOR))
    mqtt.status(state())
    yield mqtt
    mqtt.close()


@pytest.fixture
def retained(broker: Broker, mqtt: Mqtt) -> Callable[[], dict[str, bytes]]:
    """The newest message of each topic, as received by a subscriber."""
    wait_until(lambda: mqtt.state.state == "connected")
    subscriber = Subscriber(broker.port, "#")
    return lambda: {topic: payload for topic, payload, _ in subscriber.received}


def test_topics_are_retained_and_follow_what_the_camera_sees(
    mqtt: Mqtt, retained: Callable[[], dict[str, bytes]]
) -> None:
    camera = Watched(mqtt)
    camera.see(1, 0, 1)
    wait_until(lambda: json.loads(retained().get("edgesparse/door/counts", b"{}")).get("total") == 2)
    counts = json.loads(retained()["edgesparse/door/counts"])
    assert counts["zones"] == {"gate": {"total": 2, "classes": {"person": 1, "dog": 1}}}
    wait_until(lambda: retained().get("edgesparse/door/snapshot") == JPEG)
    assert json.loads(retained()["edgesparse/door/events"])["type"] == "start"
    camera.see(2)
    wait_until(lambda: json.loads(retained()["edgesparse/door/events"])["type"] == "end")
    door, service = json.loads(retained()["edgesparse/door/state"]), json.loads(retained()["edgesparse/state"])
    assert (door["state"], door["fps"], service["detecting"], service["temperature_c"]) == ("live", 9.8, True, 51.5)
    mqtt.status(state(fps=3.0))
    assert json.loads(mqtt._retained.get("edgesparse/door/state") or b"")["fps"] == 9.8, "a figure alone can wait"
    mqtt.status(state(state="away", why="no route"))
    wait_until(lambda: json.loads(retained()["edgesparse/door/state"])["why"] == "no route")


def test_counts_are_retained_and_announced_as_sensors(mqtt: Mqtt, retained: Callable[[], dict[str, bytes]]) -> None:
    camera = DOOR.model_copy(update={"lines": {"way": LINE}})
    mqtt.scene(replace(scene(camera), tracked=True))
    mqtt.detections(FrameResult(sample_frame(1), counting(), NAMES))
    wait_until(lambda: retained().get("edgesparse/door/counted"))
    mqtt.detections(FrameResult(sample_frame(2), counting(crossed=("in",), left=3.5), NAMES))
    once = {"total": 1, "classes": {"person": 1}}
    lines = {"way": {"in": once, "out": {"total": 0, "classes": {}}}}
    wait_until(lambda: json.loads(retained()["edgesparse/door/counted"])["lines"] == lines)
    config = json.loads(retained()["homeassistant/device/edgesparse-orin-1_door/config"])["components"]
    assert {key for key in config if key.startswith("line_")} == {
        f"line_way_{direction}{of}" for direction in ("in", "out") for of in ("", "_class_person", "_class_dog")
    }
    sensor = config["line_way_in_class_dog"]
    assert (sensor["state_class"], sensor["state_topic"]) == ("total_increasing", "edgesparse/door/counted")
    values = json.loads(retained()["edgesparse/door/counted"])
    shown = {
        key: jinja2.Template(config[key]["value_template"]).render(value_json=values)
        for key in (
            "line_way_in",
            "line_way_in_class_person",
            "line_way_in_class_dog",
            "zone_gate_entered",
            "zone_gate_dwell",
        )
    }
    assert list(shown.values()) == ["1", "1", "0", "1", "3.5"]
    mqtt.scene(scene(Camera(name="door", source="demo")))
    wait_until(lambda: retained()["edgesparse/door/counted"] == b"")
    wait_until(lambda: b"line_way" not in retained()["homeassistant/device/edgesparse-orin-1_door/config"])


def test_a_camera_that_is_removed_leaves_no_topic(mqtt: Mqtt, retained: Callable[[], dict[str, bytes]]) -> None:
    config = "homeassistant/device/edgesparse-orin-1_door/config"
    Watched(mqtt).see(1, 0)
    wait_until(lambda: retained().get(config) and retained().get("edgesparse/door/counts"))
    mqtt.scene(scene(Camera(name="yard", source="demo")))
    topics = (config, *(f"edgesparse/door/{topic}" for topic in ("counts", "state", "snapshot", "detect")))
    wait_until(lambda: all(retained().get(topic) == b"" for topic in topics))
    wait_until(lambda: retained().get("homeassistant/device/edgesparse-orin-1_yard/config"))


def test_the_switch_pauses_a_camera(broker: Broker, mqtt: Mqtt, paused: dict[str, int], caplog: Any) -> None:
    wait_until(lambda: mqtt.state.state == "connected")

    def send(camera: str, payload: str) -> None:
        publish.single(f"edgesparse/{camera}/detect/set", payload, qos=1, port=broker.port)

    send("door", "OFF")
    wait_until(lambda: "door" in paused)
    assert mqtt._retained.get("edgesparse/door/detect") == b"OFF"
    for topic, payload, message in (("door", "off", "needed ON or OFF"), ("cellar", "OFF", "no such camera")):
        send(topic, payload)
        wait_until(lambda message=message: message in caplog.text)  # type: ignore[misc]
    assert list(paused) == ["door"]
    send("door", "ON")
    wait_until(lambda: not paused)


def test_of_many_classes_those_are_announced_that_were_seen(mqtt: Mqtt) -> None:
    def announced() -> list[str]:
        config = json.loads(mqtt._retained.get("homeassistant/device/edgesparse-orin-1_door/config") or b"")
        return [part["name"] for part in config["components"].values() if part.get("state_class")]

    many = (*NAMES, *(f"class-{n}" for n in range(78)))
    mqtt.scene(scene(DOOR, names=many))
    assert announced() == ["Frame rate"]
    Watched(mqtt).see(1, 1)
    assert announced() == ["dog", "gate dog", "Frame rate"]
    mqtt.scene(scene(DOOR.model_copy(update={"classes": ("0", "class-3")}), names=many))
    assert announced()[:3] == ["class-3", "dog", "person"]


class HomeAssistant:
    """A real Home Assistant, in its own process."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        (folder / "configuration.yaml").touch()
        program = Path(__file__).with_name("home_assistant.py")
        command = [str(HOME_ASSISTANT), str(program), str(folder), str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "READY\n"

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def until(self, entity: str, value: str) -> dict[str, Any]:
        """Wait for the state of an entity and return its attributes."""
        wait_until(lambda: self.ask()["entities"].get(entity, {}).get("state") == value)
        attributes: dict[str, Any] = self.ask()["entities"][entity]
        return attributes

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def home(tmp_path: Path, broker: Broker) -> Iterator[HomeAssistant]:
    home = HomeAssistant(tmp_path / "home", broker.port)
    yield home
    home.close()


@pytest.mark.home_assistant
@pytest.mark.skipif(HOME_ASSISTANT is None, reason="needs Home Assistant: set HOME_ASSISTANT_PYTHON")
def test_a_real_home_assistant_shows_and_switches_it(mqtt: Mqtt, home: HomeAssistant, paused: dict[str, int]) -> None:
    camera = Watched(mqtt)
    home.until("sensor.door_state", "live")
    camera.see(1, 0, 0)
    assert home.until("sensor.door_person", "2")["unit_of_measurement"] == "objects"
    home.until("sensor.door_gate_person", "2")
    home.until("sensor.door_dog", "0")
    assert home.until("binary_sensor.door_occupancy", "on")["device_class"] == "occupancy"
    home.until("binary_sensor.door_gate_occupancy", "on")
    answer = home.ask()
    event, image = answer["entities"]["event.door_person_at_gate"], answer["entities"]["image.door_last_event"]
    assert (event["event_type"], event["event"]) == ("start", "person-at-gate") and len(event["id"]) == 16
    assert image["state"] not in ("unknown", "unavailable")
    camera.see(2)
    camera.see(3)
    home.until("binary_sensor.door_occupancy", "off")
    wait_until(lambda: home.ask()["entities"]["event.door_person_at_gate"]["event_type"] == "end")
    assert home.ask()["devices"]["door"]["via"], "the camera belongs to the service"
    home.until("binary_sensor.edgesparse_orin_1_detecting", "on")
    home.until("sensor.edgesparse_orin_1_temperature", "51.5")
    home.ask(call=["switch", "turn_off", "switch.door_detect"])
    wait_until(lambda: "door" in paused)
    mqtt.status(state(state="paused"))
    home.until("switch.door_detect", "off")
    home.until("binary_sensor.door_occupancy", "unavailable")
    mqtt.close()
    home.until("switch.door_detect", "unavailable")
