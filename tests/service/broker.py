"""A real mosquitto, which tests stop and restart, and a real subscriber."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from browser import free_port
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Broker:
    """A broker that keeps its subscribers' sessions across restarts."""

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
        end = time.monotonic() + 60
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
            process.wait(60)


class Subscriber:
    """Receives everything below a topic, in a persistent session: missed messages arrive later."""

    def __init__(self, port: int, topic: str = "edgesparse/#", **login: str) -> None:
        self.received: list[tuple[str, bytes, bool]] = []
        self._changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"test-{port}", clean_session=False)
        if login:
            self._client.username_pw_set(**login)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_message = self._message
        self._ready = threading.Event()
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._connect(port)
        self._client.loop_start()
        assert self._ready.wait(60)

    def _connect(self, port: int) -> None:
        """A broker with two listeners opens one after the other."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(OSError):
                self._client.connect("127.0.0.1", port)
                return
            time.sleep(0.05)
        raise AssertionError(f"no broker answers at port {port}")

    def _message(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.received.append((message.topic, bytes(message.payload), message.retain))
            self._changed.notify_all()

    def records(self, ending: str) -> list[Any]:
        with self._changed:
            return [json.loads(payload) for topic, payload, _ in self.received if topic.endswith(ending)]

    def until(self, count: int, ending: str, seconds: float = 60.0) -> list[Any]:
        """Wait for that many different records and return them in the order of their first arrival."""
        with self._changed:
            self._changed.wait_for(lambda: len(distinct(self.locked_records(ending))) >= count, seconds)
        return distinct(self.records(ending))

    def locked_records(self, ending: str) -> list[Any]:
        return [json.loads(payload) for topic, payload, _ in self.received if topic.endswith(ending)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def distinct(records: list[Any]) -> list[Any]:
    """Remove duplicate records, since delivery is at least once."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(record) for record in records)]
