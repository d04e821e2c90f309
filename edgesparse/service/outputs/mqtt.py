"""Detections and events to an MQTT broker: at least once, in order, kept on disk while it is away.

While the broker answers, a message is in memory until it is acknowledged; when it goes away, those that were not, and
all that come then, go to the spool. From there they are sent before anything newer.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import sqlite3
import ssl
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgesparse.service.outputs.base import Output
from edgesparse.service.outputs.spool import Message, Spool
from edgesparse.service.settings import Mqtt as Said
from edgesparse.service.settings import secret

log = logging.getLogger("edgesparse.service")

WINDOW = 64
"""Messages that are on their way at once."""
SLOW, MOST_IN_MEMORY = 2000, 20_000
"""Messages that wait in memory before they go to the disk, since the broker is slow; and while an attempt to connect
takes its time."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 10.0
FLUSH_SECONDS = 1.5


class Mqtt:
    """`put` is called in the frame loop's thread and never waits. Raises ConfigError and SinkError when made."""

    def __init__(self, said: Said, spool: Path, device: str) -> None:
        self.output = Output("mqtt", state="connecting")
        self._said, self._device = said, device
        self._password = secret(said.password_file, "service.mqtt.password_file") if said.password_file else None
        self._spool = Spool(spool, said.spool)
        self._incoming: deque[tuple[str, dict[str, Any]]] = deque()
        self._number = self._spool.last
        self._flying: dict[int, Message] = {}
        """What was sent and not acknowledged, by paho's number, in order."""
        self._lost = 0
        self._sent = 0
        """Number of the last message that was sent over this connection."""
        self._leave = False
        self._ended = False
        self._connecting, self._dialling = threading.Lock(), False
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def put(self, topic: str, record: dict[str, Any]) -> None:
        """Send `record` as JSON to TOPIC/`topic`."""
        self._incoming.append((topic, record))
        if len(self._incoming) > MOST_IN_MEMORY:
            self._incoming.popleft()
            self._lost += 1
        self._nudge()

    def _nudge(self) -> None:
        with suppress(OSError):  # full: it is awake
            self._waker.send(b"\0")

    def close(self) -> None:
        """Deliver what can be delivered in a second or so, keep the rest on disk."""
        self._leave = True
        self._nudge()
        self._thread.join(FLUSH_SECONDS + 0.5)
        with self._connecting:
            if self._dialling and self._thread.is_alive():  # it does not touch the spool, and will find that it is over
                self._end()
        if not self._thread.is_alive():
            self._wake.close()
            self._waker.close()

    # What follows runs in the thread that talks to the broker.

    def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while not self._leave:
                if self._connected():
                    pause = FIRST_PAUSE
                if not self._leave:
                    self._rest(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        except Exception:
            log.exception("mqtt: given up")
            self.output.state = "failed"
        finally:
            if not self._ended:
                self._end()

    def _end(self) -> None:
        self._ended = True
        self._keep()
        self._spool.close()

    def _rest(self, seconds: float) -> None:
        """Keep what comes, until it is time to try again."""
        until = time.monotonic() + seconds
        self._keep()
        while not self._leave and (left := until - time.monotonic()) > 0:
            select.select([self._wake], [], [], min(left, 0.5))
            self._drain_wake()
            self._keep()

    def _keep(self) -> None:
        """Move all that is in memory to the disk."""
        flying, self._flying = [message for message in self._flying.values() if not message.kept], {}
        self._spool.append([*flying, *self._take(len(self._incoming))])
        self._count()

    def _take(self, most: int) -> list[Message]:
        found = []
        for _ in range(min(most, len(self._incoming))):
            topic, record = self._incoming.popleft()
            self._number += 1
            payload = json.dumps(record, separators=(",", ":")).encode()
            found.append(Message(self._number, f"{self._said.topic}/{topic}", payload))
        return found

    def _count(self) -> None:
        memory = sum(not message.kept for message in self._flying.values())
        self.output.waiting = self._spool.count + len(self._incoming) + memory
        self.output.dropped = self._spool.dropped + self._lost

    def _client(self) -> paho.Client:
        said = self._said
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=said.client_id or f"edgesparse-{self._device}")
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages_set(WINDOW)
        if said.username is not None:
            client.username_pw_set(said.username, self._password)
        if said.tls:
            client.tls_set(ca_certs=str(said.ca_file) if said.ca_file else None)
        client.will_set(f"{said.topic}/status", "offline", qos=1, retain=True)
        client.on_connect = self._answered
        client.on_publish = self._acknowledged
        return client

    def _answered(self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self.output.state = f"refused: {reason}"
            log.warning("mqtt: %s refuses: %s", self._said.host, reason)
            return
        self.output.state = "connected"
        log.info("mqtt: connected to %s", self._said.host)
        client.publish(f"{self._said.topic}/status", "online", qos=1, retain=True)

    def _acknowledged(self, client: paho.Client, data: Any, number: int, reason: Any, properties: Any) -> None:
        message = self._flying.pop(number, None)
        if message is not None:
            self.output.sent += 1
            if message.kept:
                self._delivered.append(message)

    def _connected(self) -> bool:
        """One connection, from its beginning to its end; whether there was one."""
        client = self._client()
        self._sent, self._delivered = 0, list[Message]()
        self.output.state = "connecting"
        try:
            if not self._dial(client):
                return False
            self._serve(client)
        except (OSError, ValueError, sqlite3.Error) as error:
            log.debug("mqtt: %s: %s", self._said.host, error)
        was = self.output.state == "connected"
        if was and not self._leave:
            log.warning("mqtt: %s has gone; messages are kept on disk", self._said.host)
        if not self.output.state.startswith("refused"):
            self.output.state = "away"
        self._spool.remove(self._delivered)
        client.disconnect()
        return was

    def _dial(self, client: paho.Client) -> bool:
        """Connect, which a resolver may hold up for long; whether that still matters."""
        self._dialling = True
        try:
            client.connect(self._said.host, self._said.port, keepalive=15)
        finally:
            with self._connecting:
                self._dialling = False
        return not self._ended

    def _serve(self, client: paho.Client) -> None:
        """Until the connection ends, the broker does not answer, or it is time to leave."""
        begun, until = time.monotonic(), float("inf")
        while time.monotonic() < until and self._turn(client):
            if self.output.state == "connected":
                self._send(client)
            elif time.monotonic() - begun > ANSWER_SECONDS:
                return
            if self._leave:
                until = min(until, time.monotonic() + FLUSH_SECONDS)
                if self.output.state != "connected" or not (self._flying or self._incoming or self._spool.count):
                    break
        if self._leave and self.output.state == "connected":
            client.publish(f"{self._said.topic}/status", "offline", qos=0, retain=True)

    def _turn(self, client: paho.Client) -> bool:
        """Wait for the wire or for a message, and let paho read and write; whether the connection still stands."""
        if (wire := client.socket()) is None:
            return False
        # What TLS has decrypted already, select does not see.
        pending = isinstance(wire, ssl.SSLSocket) and wire.pending() > 0
        wanting = [wire] if client.want_write() else []
        readable, writable, _ = select.select([wire, self._wake], wanting, [], 0 if pending else 0.5)
        if self._wake in readable:
            self._drain_wake()
        failed = (pending or wire in readable) and client.loop_read()
        return not (failed or (writable and client.loop_write()) or client.loop_misc())

    def _send(self, client: paho.Client) -> None:
        self._spool.remove(self._delivered)
        self._delivered.clear()
        room = WINDOW - len(self._flying)
        kept = self._spool.after(self._sent, room) if self._spool.count and room else ()
        for message in kept:
            self._publish(client, message)
        if not kept and self._incoming:
            if self._unsent() == 0:
                for message in self._take(room):
                    self._publish(client, message)
            if len(self._incoming) > SLOW or self._unsent():
                self._spill()
        self._count()

    def _unsent(self) -> int:
        """Messages on disk that were not sent over this connection."""
        return len(self._spool.after(self._sent, 1)) if self._spool.count else 0

    def _spill(self) -> None:
        """The broker is slow: what waits goes to the disk, behind what is there."""
        self._spool.append(self._take(len(self._incoming)))

    def _publish(self, client: paho.Client, message: Message) -> None:
        self._sent = message.number
        self._flying[client.publish(message.topic, message.payload, qos=1).mid] = message

    def _drain_wake(self) -> None:
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
