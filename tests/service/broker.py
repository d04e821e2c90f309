"""A real mosquitto, that a test may stop and start again, and a real subscriber."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from browser import free_port
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Broker:
    """Keeps its subscribers' sessions over restarts, as a broker in the field does."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        self._file.write_text(
            f"listener {self.port} 127.0.0.1\npersistence true\npersistence_location {folder}/\n"
            f"max_queued_messages 0\nuser root\n{more or 'allow_anonymous true'}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.on()

    def on(self) -> None:
        self._process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 10
        while True:
            client = paho.Client(CallbackAPIVersion.VERSION2)
            try:
                client.connect("127.0.0.1", self.port)
                client.disconnect()
                return
            except OSError:
                assert time.monotonic() < end, "mosquitto does not answer"
                time.sleep(0.05)

    def off(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(10)


class Subscriber:
    """Everything below a topic, with a session that the broker keeps: what it misses comes later."""

    def __init__(self, port: int, topic: str = "edgesparse/#", **login: str) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self._changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"test-{port}", clean_session=False)
        if login:
            self._client.username_pw_set(**login)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_message = self._message
        self._ready = threading.Event()
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(10)

    def _message(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.heard.append((message.topic, bytes(message.payload), message.retain))
            self._changed.notify_all()

    def records(self, ending: str) -> list[Any]:
        with self._changed:
            return [json.loads(payload) for topic, payload, _ in self.heard if topic.endswith(ending)]

    def until(self, count: int, ending: str, seconds: float = 30.0) -> list[Any]:
        """The first so many different records, in the order in which each came first."""
        with self._changed:
            self._changed.wait_for(lambda: len(first(self.records_held(ending))) >= count, seconds)
        return first(self.records(ending))

    def records_held(self, ending: str) -> list[Any]:
        return [json.loads(payload) for topic, payload, _ in self.heard if topic.endswith(ending)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def first(records: list[Any]) -> list[Any]:
    """Without those that came again: at least once is what was promised."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(record) for record in records)]
