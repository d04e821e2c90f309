"""Detections and events to an MQTT broker: at least once, in order, kept on disk while the broker is away. Also the
state of cameras and detector, retained: only the newest counts.

While the broker answers, a message is in memory until it is acknowledged. When the broker goes away, messages that were
not acknowledged, and all that follow, go to the spool. They are sent from there before anything newer. The state is
sent again over each connection.
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
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import paho.mqtt.client as paho

from edgesparse.deadline import Deadline
from edgesparse.mqtt_client import BoundedClient, explained
from edgesparse.service.in_view import InView
from edgesparse.service.outputs.backlog import Backlog
from edgesparse.service.outputs.base import FrameResult, Output, OutputContext, OutputState, Scene, Writer
from edgesparse.service.outputs.events import Event
from edgesparse.service.outputs.mqtt_settings import MqttSettings
from edgesparse.service.outputs.mqtt_topics import Topics
from edgesparse.service.outputs.retained import Retained
from edgesparse.service.outputs.spool import Message
from edgesparse.service.snapshots import Snapshot
from edgesparse.supervised import Supervised
from edgesparse.wording import short

log = logging.getLogger("edgesparse.service")

WINDOW = 64
"""Most messages in flight."""
SLOW = 2000
"""Most messages waiting in memory for a slow broker; beyond that they go to disk."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
LONGEST_PACKET = 64 << 10
"""Bytes of a packet from the broker, which sends acknowledgements and short commands."""
CONNECT_SECONDS, ANSWER_SECONDS, FLUSH_SECONDS = 4.0, 10.0, 1.5


class Mqtt(Output):
    """Raises ConfigError for unusable credentials, SinkError if the spool is not writable."""

    settings_type = MqttSettings
    snapshots_events = True

    def __init__(self, settings: MqttSettings, context: OutputContext) -> None:
        self.state = OutputState("mqtt", state="connecting")
        self._settings = settings
        self._password = settings.password("service.mqtt")
        self._tls = settings.tls_context("service.mqtt")
        self._backlog = Backlog(context.folder / "spool" / "mqtt.sqlite", settings.spool, settings.topic)
        self._spool = self._backlog.spool
        self._client_id = settings.client_id or f"edgesparse-{context.device}"
        self._retained = Retained(self._nudge)
        self._topics = Topics(settings, self._client_id, self._retained, context.paused)
        self._in_flight: dict[int, Message] = {}  # sent but not acknowledged, by paho's message id, in order
        self._sent = 0  # number of the last message that was sent over this connection
        self._leave = self._ended = False
        self._reason = ""  # why the last connection ended or failed
        self._connecting, self._dialling = threading.Lock(), False
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        self._thread = Supervised("mqtt", self._run)

    def detections(self, result: FrameResult) -> None:
        if self._settings.empty or len(result.detections):
            self.put(f"{result.frame.source}/detections", result.writer())
        self._topics.detections(result)

    def event(self, event: Event) -> None:
        self.put(f"{event.camera}/events", partial(json.dumps, event.record))

    def scene(self, scene: Scene) -> None:
        self._topics.take(scene)

    def in_view(self, camera: str, counts: InView) -> None:
        self._topics.in_view(camera, counts)

    def status(self, status: Mapping[str, Any]) -> None:
        self._topics.status(status)

    def snapshot(self, camera: str, snapshot: Snapshot) -> None:
        if snapshot.requested and self._settings.snapshots:
            self._topics.snapshot(camera, snapshot)

    def put(self, topic: str, write: Writer) -> None:
        """Queue a message for TOPIC/`topic`, whose text `write` returns in the thread that sends it."""
        self._backlog.put(topic, write)
        self._nudge()

    def _nudge(self) -> None:
        with suppress(OSError):  # the pipe is full, so the thread is awake
            self._waker.send(b"\0")

    def close(self) -> None:
        """Deliver what can be delivered within FLUSH_SECONDS and keep the rest on disk."""
        self._leave = True
        self._thread.leave()
        self._nudge()
        self._thread.join(FLUSH_SECONDS + 0.5)
        with self._connecting:
            if self._dialling and self._thread.is_alive():  # while connecting, the thread does not touch the spool
                self._end()
        if not self._thread.is_alive():
            self._wake.close()
            self._waker.close()

    # The rest runs in the thread that talks to the broker.

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._leave:
            try:
                if self._connected():
                    pause = FIRST_PAUSE
                if not self._leave:
                    self._rest(pause)
            except Exception as error:
                self.state.state = f"failed: {type(error).__name__}: {error}"
                with suppress(Exception):
                    self._keep()
                raise
            pause = min(2 * pause, LONGEST_PAUSE)
        if not self._ended:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._keep()
        self._spool.close()

    def _rest(self, seconds: float) -> None:
        """Move incoming messages to disk until it is time to try again."""
        until = time.monotonic() + seconds
        self._keep()
        while not self._leave and (left := until - time.monotonic()) > 0:
            select.select([self._wake], [], [], min(left, 0.5))
            self._drain_wake()
            self._keep()

    def _keep(self) -> None:
        """Move all messages from memory to the disk."""
        self._backlog.spill([message for message in self._in_flight.values() if not message.kept])
        self._in_flight = {}
        self._count()

    def _count(self) -> None:
        self.state.waiting = len(self._backlog) + sum(not message.kept for message in self._in_flight.values())
        self.state.dropped, self.state.storage = self._backlog.dropped, self._spool.error

    def _client(self) -> BoundedClient:
        settings = self._settings
        client = BoundedClient(self._client_id, LONGEST_PACKET)
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages_set(WINDOW)
        if settings.username is not None:
            client.username_pw_set(settings.username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.will_set(f"{settings.topic}/status", "offline", qos=1, retain=True)
        client.on_connect = self._answered
        client.on_publish = self._acknowledged
        client.on_message = self._commanded
        return client

    def _answered(self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self.state.state = f"refused: {reason}"
            log.warning("mqtt: %s refuses: %s", self._settings.host, reason)
            return
        self.state.state = "connected"
        log.info("mqtt: connected to %s", self._settings.host)
        client.publish(f"{self._settings.topic}/status", "online", qos=1, retain=True)
        client.subscribe(self._topics.commands, qos=1)
        self._retained.renew()

    def _commanded(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        try:
            self._topics.command(message.topic, bytes(message.payload))
        except ValueError as error:
            log.warning("mqtt: %s: %s", short(message.topic), error)

    def _acknowledged(self, client: paho.Client, data: Any, number: int, reason: Any, properties: Any) -> None:
        message = self._in_flight.pop(number, None)
        if message is not None:
            self.state.sent += 1
            if message.kept:
                self._delivered.append(message)

    def _connected(self) -> bool:
        """Connect and serve until the connection ends. Returns whether the broker accepted it."""
        client = self._client()
        self._sent, self._delivered, reason = 0, list[Message](), "the broker closed the connection"
        self.state.state = "connecting"
        try:
            if not self._dial(client):
                return False
            self._serve(client)
        except (OSError, ValueError, sqlite3.Error) as error:
            reason = explained(error)
        accepted = self.state.state == "connected"
        if not self.state.state.startswith("refused"):
            self.state.state = f"away: {reason}"
            if not self._leave and (accepted or reason != self._reason):
                log.warning("mqtt: %s is away: %s; messages are kept on disk", self._settings.host, reason)
            self._reason = reason
        self._spool.remove(self._delivered)
        client.disconnect()
        return accepted

    def _dial(self, client: paho.Client) -> bool:
        """Connect, which may take long if the resolver does. Returns False if the output was closed meanwhile."""
        self._dialling = True
        try:
            with Deadline(ANSWER_SECONDS):
                client.connect(self._settings.host, self._settings.port, keepalive=15)
        finally:
            with self._connecting:
                self._dialling = False
        return not self._ended

    def _serve(self, client: paho.Client) -> None:
        """Exchange messages until the connection ends, the broker does not answer, or the output is closed."""
        begun, until = time.monotonic(), float("inf")
        while time.monotonic() < until and self._turn(client):
            if self.state.state == "connected":
                self._send(client)
            elif time.monotonic() - begun > ANSWER_SECONDS:
                return
            if self._leave:
                until = min(until, time.monotonic() + FLUSH_SECONDS)
                if self.state.state != "connected" or not (self._in_flight or len(self._backlog) or self._retained):
                    break
        if self._leave and self.state.state == "connected":
            client.publish(f"{self._settings.topic}/status", "offline", qos=0, retain=True)

    def _turn(self, client: paho.Client) -> bool:
        """Wait for the socket or a message, and let paho read and write. Returns whether the connection lives."""
        if (wire := client.socket()) is None:
            return False
        # select does not see what TLS has decrypted already.
        pending = isinstance(wire, ssl.SSLSocket) and wire.pending() > 0
        writing = [wire] if client.want_write() else []
        readable, writable, _ = select.select([wire, self._wake], writing, [], 0 if pending else 0.5)
        if self._wake in readable:
            self._drain_wake()
        failed = (pending or wire in readable) and client.loop_read()
        return not (failed or (writable and client.loop_write()) or client.loop_misc())

    def _send(self, client: paho.Client) -> None:
        self._spool.remove(self._delivered)
        self._delivered.clear()
        for topic, payload in self._retained.take():
            client.publish(topic, payload, qos=1, retain=True)
        room = WINDOW - len(self._in_flight)
        kept = self._spool.after(self._sent, room) if self._spool.count and room else ()
        for message in kept:
            self._publish(client, message)
        if not kept and self._backlog.in_memory:
            if not self._unsent():
                for message in self._backlog.take(room):
                    self._publish(client, message)
            if self._backlog.in_memory > SLOW or self._unsent():  # the broker is slow
                self._backlog.spill()
        self._count()

    def _unsent(self) -> bool:
        """Whether the disk holds a message that was not yet sent over this connection."""
        return bool(self._spool.count and self._spool.after(self._sent, 1))

    def _publish(self, client: paho.Client, message: Message) -> None:
        self._sent = message.number
        self._in_flight[client.publish(message.topic, message.payload, qos=1).mid] = message

    def _drain_wake(self) -> None:
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
