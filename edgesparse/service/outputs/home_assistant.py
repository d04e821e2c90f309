"""Home Assistant's MQTT discovery: the devices and entities that it creates from the MQTT output's topics.

The format is Home Assistant's device discovery (2024.11 and newer), https://www.home-assistant.io/integrations/mqtt.
One device stands for the service and one for each camera.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from edgesparse.camera import Camera
from edgesparse.runtime.counts import DIRECTIONS
from edgesparse.service.outputs.events import Phase
from edgesparse.version import VERSION

Values = dict[str, Any]
PHASES: tuple[Phase, ...] = ("start", "update", "end", "clip")
_ORIGIN = {"name": "edgesparse", "sw_version": VERSION}
_KEPT = ("event", "id", "camera", "time", "start_time", "seconds", "clip", "snapshot")
"""What Home Assistant keeps of an event: no boxes, since it stores attributes for ten days."""


@dataclass(frozen=True)
class Home:
    """`topic`: what all topics begin with. `node`: the service's id, unique at the broker. `snapshots`: whether there
    is a snapshot of events."""

    topic: str
    node: str
    snapshots: bool

    def camera_id(self, camera: str) -> str:
        return f"{self.node}_{camera}"


def service_device(home: Home, status: Mapping[str, Any]) -> Values:
    """Return the discovery message of the service. `status`: as in status.json."""
    topic, node = f"{home.topic}/state", home.node
    components: dict[str, Values] = {
        "detecting": {
            "platform": "binary_sensor",
            "name": "Detecting",
            "device_class": "running",
            "value_template": "{{ 'ON' if value_json.detecting else 'OFF' }}",
            "json_attributes_topic": topic,
            "json_attributes_template": "{{ {'why': value_json.why, 'precision': value_json.precision} | to_json }}",
        },
        "latency": _figure("Latency", "value_json.latency_ms.p50", "ms", "duration"),
        "temperature": _figure("Temperature", "value_json.temperature_c", "°C", "temperature"),
        "power": _figure("Power", "value_json.watts", "W", "power"),
    }
    for key, missing in (("temperature", "temperature_c"), ("power", "watts")):
        if status.get(missing) is None:
            del components[key]
    for key, component in components.items():
        component |= {
            "unique_id": f"{node}_{key}",
            "state_topic": topic,
            "entity_category": "diagnostic",
            "availability": _availability(home),
        }
    device = {"identifiers": [node], "name": node, "manufacturer": "edgesparse", "sw_version": VERSION}
    return {"device": {**device, "model": str(status["model"])}, "origin": _ORIGIN, "components": components}


def camera_device(home: Home, camera: Camera, classes: Sequence[str], rules: Sequence[str], *, counts: bool) -> Values:
    """Return the discovery message of a camera: `classes` that it shows, and event `rules`. `counts`: whether its lines
    and zones count."""
    topic, node = f"{home.topic}/{camera.name}", home.camera_id(camera.name)
    components = {**_counts(topic, classes, tuple(camera.zones)), **_controls(topic)}
    if counts:
        components |= {**_crossings(topic, classes, camera.lines), **_stays(topic, camera.zones)}
    if home.snapshots and rules:
        components["snapshot"] = _component("image", "Last event", image_topic=f"{topic}/snapshot")
        components["snapshot"]["content_type"] = "image/jpeg"
    for rule in rules:
        components[f"event_{_key(rule)}"] = _event(topic, rule)
    for key, component in components.items():
        states_itself = key in ("detect", "state")
        component |= {"unique_id": f"{node}_{key}", "availability_mode": "all"}
        component["availability"] = _availability(home, None if states_itself else f"{topic}/state")
    device = {"identifiers": [node], "name": camera.name, "manufacturer": "edgesparse", "via_device": home.node}
    return {"device": device, "origin": _ORIGIN, "components": components}


def _counts(topic: str, classes: Sequence[str], zones: Sequence[str]) -> dict[str, Values]:
    """Return a sensor per class and a binary sensor of occupancy, for the whole frame and for each zone."""
    components: dict[str, Values] = {}
    for zone in ("", *zones):
        part = f"value_json.zones[{json.dumps(zone)}]" if zone else "value_json"
        prefix, name = (f"zone_{_key(zone)}_", f"{zone} ") if zone else ("", "")
        components[f"{prefix}occupancy"] = _component(
            "binary_sensor",
            f"{name}occupancy",
            state_topic=f"{topic}/counts",
            device_class="occupancy",
            value_template=f"{{{{ 'ON' if {part}.total else 'OFF' }}}}",
        )
        for label in classes:
            components[f"{prefix}class_{_key(label)}"] = _component(
                "sensor",
                f"{name}{label}",
                state_topic=f"{topic}/counts",
                state_class="measurement",
                unit_of_measurement="objects",
                value_template=f"{{{{ {part}.classes[{json.dumps(label)}] | default(0) }}}}",
            )
    return components


def _crossings(topic: str, classes: Sequence[str], lines: Iterable[str]) -> dict[str, Values]:
    """Return a sensor per line and direction, for all classes and for each."""
    components: dict[str, Values] = {}
    for line, direction in product(lines, DIRECTIONS):
        part = f"value_json.lines[{json.dumps(line)}][{json.dumps(direction)}]"
        key, name = f"line_{_key(line)}_{direction}", f"{line} {direction}"
        components[key] = _total(topic, name, f"{part}.total")
        for label in classes:
            value = f"{part}.classes[{json.dumps(label)}] | default(0)"
            components[f"{key}_class_{_key(label)}"] = _total(topic, f"{name} {label}", value)
    return components


def _stays(topic: str, zones: Iterable[str]) -> dict[str, Values]:
    """Return per zone a sensor of the objects that entered, and of how long those that left stayed on average."""
    components: dict[str, Values] = {}
    for zone in zones:
        part = f"value_json.zones[{json.dumps(zone)}]"
        components[f"zone_{_key(zone)}_entered"] = _total(topic, f"{zone} entered", f"{part}.entered.total")
        mean = f"({part}.seconds.total / [{part}.left.total, 1] | max) | round(1)"
        figure = _figure(f"{zone} dwell time", mean, "s", "duration")
        components[f"zone_{_key(zone)}_dwell"] = {**figure, "state_topic": f"{topic}/counted"}
    return components


def _total(topic: str, name: str, value: str) -> Values:
    """Return a sensor that only grows, and begins at 0 with the service."""
    values = {"state_class": "total_increasing", "unit_of_measurement": "objects"}
    return _component("sensor", name, state_topic=f"{topic}/counted", value_template=f"{{{{ {value} }}}}", **values)


def _controls(topic: str) -> dict[str, Values]:
    state = _component("sensor", "State", state_topic=f"{topic}/state", value_template="{{ value_json.state }}")
    states = ["live", "opening", "waiting", "away", "paused"]
    rate = _figure("Frame rate", "value_json.fps", "fps", None)
    return {
        "detect": _component("switch", "Detect", state_topic=f"{topic}/detect", command_topic=f"{topic}/detect/set"),
        "state": {**state, "device_class": "enum", "options": states, "entity_category": "diagnostic"},
        "fps": {**rate, "state_topic": f"{topic}/state", "entity_category": "diagnostic"},
    }


def _event(topic: str, rule: str) -> Values:
    kept = ", ".join(f"{json.dumps(key)}: value_json.{key} | default(None)" for key in _KEPT)
    template = (
        f"{{% if value_json.event == {json.dumps(rule)} %}}"
        f'{{{{ {{"event_type": value_json.type, {kept}}} | to_json }}}}{{% endif %}}'
    )
    values = {"state_topic": f"{topic}/events", "event_types": list(PHASES), "value_template": template}
    return _component("event", rule, **values)


def _component(platform: str, name: str, **values: Any) -> Values:
    return {"platform": platform, "name": name, **values}


def _figure(name: str, value: str, unit: str, device_class: str | None) -> Values:
    values = {"state_class": "measurement", "unit_of_measurement": unit, "value_template": f"{{{{ {value} }}}}"}
    return _component("sensor", name, **values, **({"device_class": device_class} if device_class else {}))


def _availability(home: Home, camera_state: str | None = None) -> list[Values]:
    """Return when an entity is available: while the service is online and, with `camera_state`, the camera is live."""
    online: Values = {"topic": f"{home.topic}/status"}
    live = "{{ 'online' if value_json.state == 'live' else 'offline' }}"
    return [online] if camera_state is None else [online, {"topic": camera_state, "value_template": live}]


def _key(name: str) -> str:
    """Return a name in a form usable in an id; different names stay different."""
    return re.sub(r"[^a-zA-Z0-9-]", lambda match: f"_{ord(match[0]):x}_", name)
