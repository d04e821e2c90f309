"""The retained topics of the MQTT output: state of the detector; per camera its state, what it sees, its newest
snapshot and the switch that pauses it; and Home Assistant's discovery.

    TOPIC/state                  state of the service
    TOPIC/CAMERA/state           state of the camera
    TOPIC/CAMERA/counts          objects in view, per class and zone
    TOPIC/CAMERA/counted         crossings of lines and stays in zones so far
    TOPIC/CAMERA/snapshot        JPEG of the last report of an event
    TOPIC/CAMERA/detect          ON or OFF; OFF while the camera is paused
    TOPIC/CAMERA/detect/set      command: ON or OFF
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgesparse.camera import Camera
from edgesparse.runtime.counts import Counts
from edgesparse.service.in_view import InView
from edgesparse.service.outputs.base import FrameResult, Scene
from edgesparse.service.outputs.home_assistant import Home, camera_device, service_device
from edgesparse.service.outputs.mqtt_settings import MqttSettings
from edgesparse.service.outputs.retained import Retained
from edgesparse.service.snapshots import Snapshot
from edgesparse.stream.sinks.draw import class_name
from edgesparse.stream.totals import totals

REPEAT = 10.0
"""Seconds after which figures of a state are published again; a change of the state itself is published at once."""
FEW_CLASSES = 12
"""Up to this many classes, all are announced at the start; otherwise, those that a camera has seen."""
_SERVICE = ("detecting", "healthy", "why", "model", "precision", "fallback", "temperature_c", "watts", "latency_ms")
_CAMERA = ("state", "why", "fps", "age_ms", "frames", "dropped", "reopened")
_FIGURES = ("temperature_c", "watts", "latency_ms", "fps", "age_ms", "frames", "dropped", "reopened")


class Topics:
    """What is known of the service, as retained messages. Methods run in several threads, each always in the same."""

    def __init__(self, settings: MqttSettings, client_id: str, retained: Retained, paused: dict[str, int]) -> None:
        self._topic, self._discovery = settings.topic, settings.discovery
        self._home = Home(settings.topic, re.sub(r"[^a-zA-Z0-9_-]", "_", client_id), settings.snapshots)
        self._retained, self._paused = retained, paused
        self._scene = Scene()
        self._seen: dict[str, set[str]] = {}
        """Names of the classes that each camera has seen, of those that are not announced from the start."""
        self._counted: dict[str, Counts] = {}
        """What each camera has counted, as published."""
        self._states: dict[str, tuple[float, dict[str, Any]]] = {}
        """When each state was published, and its values without the figures."""

    @property
    def commands(self) -> str:
        """The topics to subscribe to."""
        return f"{self._topic}/+/detect/set"

    def take(self, scene: Scene) -> None:
        """Take cameras, classes and rules; the topics of a camera that no longer exists are emptied."""
        removed = {camera.name for camera in self._scene.cameras} - {camera.name for camera in scene.cameras}
        self._scene = scene
        for name in removed:
            self._seen.pop(name, None)
            self._counted.pop(name, None)
            for topic in self._retained.topics(f"{self._topic}/{name}"):
                self._retained.put(topic, b"")
            if self._discovery is not None:
                self._retained.put(self._config(self._home.camera_id(name)), b"")
        for camera in scene.cameras:
            if not _counts(scene, camera) and self._counted.pop(camera.name, None) is not None:
                self._retained.put(f"{self._topic}/{camera.name}/counted", b"")
            self._announce(camera.name)

    def _announce(self, name: str) -> None:
        if self._discovery is None:
            return
        camera = next((camera for camera in self._scene.cameras if camera.name == name), None)
        if camera is None:
            return
        own = self._scene.classes if camera.classes is None else camera.classes
        classes = _names(own or (), self._scene.names) or self._few()
        rules = [rule.name for rule in self._scene.rules if rule.cameras is None or name in rule.cameras]
        every = sorted({*classes, *self._seen.get(name, ())})
        device = camera_device(self._home, camera, every, rules, counts=_counts(self._scene, camera))
        self._put(self._config(self._home.camera_id(name)), device)

    def _few(self) -> Sequence[str]:
        return self._scene.names if len(self._scene.names) <= FEW_CLASSES else ()

    def _config(self, device: str) -> str:
        return f"{self._discovery}/device/{device}/config"

    def detections(self, result: FrameResult) -> None:
        """Publish what the camera has counted, and announce classes that it sees for the first time."""
        counts, camera = result.detections.counts, result.frame.source
        if counts is not None and counts.tracked and (counts.changed or camera not in self._counted):
            self._counted[camera] = counts
            self._put(f"{self._topic}/{camera}/counted", totals(counts, result.names))
        if self._discovery is None or not len(result.detections) or self._few():
            return
        seen = self._seen.setdefault(camera, set())
        new = {class_name(result.names, class_id) for class_id in set(result.detections.class_id.tolist())} - seen
        if new:
            seen |= new
            self._announce(camera)

    def in_view(self, camera: str, counts: InView) -> None:
        zones = next((tuple(known.zones) for known in self._scene.cameras if known.name == camera), ())
        self._put(f"{self._topic}/{camera}/counts", counts.record(self._scene.names, zones))

    def status(self, status: Mapping[str, Any]) -> None:
        if self._discovery is not None:
            device = service_device(self._home, status)
            self._put(self._config(self._home.node), device)
        self._state(f"{self._topic}/state", {key: status[key] for key in _SERVICE if status.get(key) is not None})
        for camera in status["cameras"]:
            name = camera["name"]
            self._state(f"{self._topic}/{name}/state", {key: camera[key] for key in _CAMERA})
            self._retained.put(f"{self._topic}/{name}/detect", b"OFF" if name in self._paused else b"ON")

    def _state(self, topic: str, values: dict[str, Any]) -> None:
        now, state = time.monotonic(), {key: value for key, value in values.items() if key not in _FIGURES}
        since, previous = self._states.get(topic, (0.0, {}))
        if state != previous or now - since >= REPEAT:
            self._states[topic] = now, state
            self._put(topic, values)

    def snapshot(self, camera: str, snapshot: Snapshot) -> None:
        self._retained.put(f"{self._topic}/{camera}/snapshot", snapshot.jpeg)

    def command(self, topic: str, payload: bytes) -> None:
        """Pause or resume a camera. Raises ValueError for anything else."""
        name = topic.removeprefix(f"{self._topic}/").removesuffix("/detect/set")
        if name not in {camera.name for camera in self._scene.cameras}:
            raise ValueError("no such camera")
        if payload not in (b"ON", b"OFF"):
            raise ValueError(f"found {payload[:20]!r}, needed ON or OFF")
        if payload == b"ON":
            self._paused.pop(name, None)
        else:
            self._paused.setdefault(name, time.monotonic_ns())
        self._retained.put(f"{self._topic}/{name}/detect", payload)

    def _put(self, topic: str, values: Mapping[str, Any]) -> None:
        self._retained.put(topic, json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode())


def _counts(scene: Scene, camera: Camera) -> bool:
    """Return whether a camera counts at lines or in zones."""
    return scene.tracked and bool(camera.lines or camera.zones)


def _names(classes: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names of classes that rules name by name or number."""
    return [class_name(names, int(own)) if own.isdecimal() and own not in names else own for own in classes]
