"""Reports over MQTT: each device keeps its newest report at a broker, as a retained message.

    TOPIC/SHARD/NAME    SHARD: the first two hexadecimal digits of the SHA-256 of NAME

A broker drops what it cannot queue for a reader: Mosquitto more than 1000 messages, without a sign. So a reader asks
for a few shards, and for the next ones once the broker has answered: replies and messages arrive in the order in which
the broker wrote them, which leaves at most two requests' worth of messages in its queue.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from edgesparse.deadline import Deadline, watched
from edgesparse.errors import BackendUnavailable, DeployError
from edgesparse.progress import Progress
from edgesparse.redaction import redact, remember_address

try:
    from paho.mqtt.client import MQTT_ERR_SUCCESS, MQTTMessage, error_string

    from edgesparse.mqtt_client import BoundedClient, explained
except ImportError as error:
    raise BackendUnavailable(f"reports over MQTT need paho-mqtt ({error}): pip install 'edgesparse[fleet]'") from error

SCHEMES = {"mqtt": 1883, "mqtts": 8883}
"""Schemes, and their default ports."""
TOPIC = "edgesparse/fleet"
SHARDS, AT_ONCE = 256, 4
"""How many shards there are, and how many are requested at once: 150 reports of 10,000 devices."""
LONGEST = 1 << 24
"""Bytes of a packet."""
ANSWER_SECONDS, QUIET_SECONDS = 10.0, 1.0
"""Time in which a broker must answer, and time without a message after which there are no more."""


@dataclass(frozen=True)
class Broker:
    """Where reports are. `where`: its address without credentials."""

    where: str
    host: str
    port: int
    topic: str
    tls: bool
    username: str | None
    password: str | None


def broker(address: str) -> Broker:
    """Parse mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/TOPIC]. Raises DeployError."""
    remember_address(address)
    try:
        parts = urlsplit(address)
        host, port, topic = parts.hostname, parts.port or SCHEMES[parts.scheme], parts.path.strip("/") or TOPIC
        if not host or parts.query or parts.fragment or set(topic) & set("+#\0"):
            raise ValueError(address)
    except ValueError:
        raise DeployError(f"{redact(address)}: needed mqtts://HOST/TOPIC, with a topic without +, # and ?") from None
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return Broker(redact(address), host, port, topic, parts.scheme == "mqtts", user, password)


def topic_of(topic: str, device: str) -> str:
    """Return the topic of a device's report."""
    return f"{topic}/{hashlib.sha256(device.encode()).hexdigest()[:2]}/{device}"


def send(device: str, text: str, address: str) -> None:
    """Store a device's report at a broker, in place of its previous one. Raises DeployError."""
    to = broker(address)
    with _connected(to, lambda *_: None) as (client, until):
        sent = client.publish(topic_of(to.topic, device), text, qos=1, retain=True)
        if sent.rc != MQTT_ERR_SUCCESS:
            raise ConnectionError(error_string(sent.rc))
        until(sent.is_published)


def read(address: str, take: Callable[[str, bytes], object], progress: Progress) -> None:
    """Call `take` with the device's name and the bytes of each report at a broker; again, if a device reports
    meanwhile. Raises DeployError.
    """
    at, newest = broker(address), time.monotonic()

    def receive(client: Any, data: Any, message: MQTTMessage) -> None:
        nonlocal newest
        if message.retain:  # in a large fleet, there is always a device that reports now
            newest = time.monotonic()
        name = message.topic.rpartition("/")[2]
        if message.payload and message.topic == topic_of(at.topic, name):
            take(name, bytes(message.payload))

    with _connected(at, receive) as (client, until):
        answered: set[int] = set()
        client.on_subscribe = lambda client, data, number, *_: answered.add(number)
        for begin in range(0, SHARDS, AT_ONCE):
            progress("reading reports", begin, SHARDS)
            number = client.subscribe([(f"{at.topic}/{n:02x}/+", 0) for n in range(begin, begin + AT_ONCE)])[1]
            until(lambda number=number: number in answered)
        newest = time.monotonic()
        until(lambda: time.monotonic() - newest > QUIET_SECONDS)


@contextmanager
def _connected(to: Broker, receive: Callable[..., None]) -> Iterator[tuple[BoundedClient, Callable[..., None]]]:
    """Yield a client, and a function that waits until a condition holds. Raises DeployError."""
    client, accepted = BoundedClient("", LONGEST), list[Any]()
    client.connect_timeout = ANSWER_SECONDS
    client.on_connect = lambda client, data, flags, reason, *_: accepted.append(reason)
    client.on_message = receive
    if to.username is not None:
        client.username_pw_set(to.username, to.password)

    def until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + ANSWER_SECONDS
        while not condition():
            heard = client.loop(0.1)
            if heard != MQTT_ERR_SUCCESS and not condition():
                raise ConnectionError(error_string(heard))
            if time.monotonic() > end:
                raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")

    try:
        if to.tls:
            client.tls_set_context(watched(ssl.create_default_context()))
        with Deadline(ANSWER_SECONDS):
            client.connect(to.host, to.port)
        until(lambda: bool(accepted))
        if accepted[0].is_failure:
            raise ConnectionError(f"the broker refuses: {accepted[0]}")
        yield client, until
    except (OSError, ValueError) as error:
        raise DeployError(f"cannot use the broker {to.where}: {explained(error)}") from None
    finally:
        client.disconnect()
