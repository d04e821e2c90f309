"""An MQTT client whose memory a broker cannot fill, and why it has no connection."""

from __future__ import annotations

from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


def explained(error: Exception) -> str:
    """Return why a connection failed, in the words of TLS or the system if they have any."""
    return getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)


class BoundedClient(paho.Client):
    """Refuses packets longer than `longest` bytes: paho would hold the 256 MB that a broker may announce in memory."""

    def __init__(self, client_id: str, longest: int, **options: Any) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, **options)
        self._longest = longest

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self._longest:
            raise ValueError(f"the broker sends a packet of {bufsize} bytes, more than {self._longest}")
        return super()._sock_recv(bufsize)
