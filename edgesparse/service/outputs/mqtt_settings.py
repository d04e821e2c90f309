"""The settings of the MQTT output: broker, credentials, topics, and what is published."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from edgesparse.deadline import watched
from edgesparse.errors import ConfigError
from edgesparse.service.credentials import read_certificates, read_secret
from edgesparse.service.outputs.base import OutputSettings
from edgesparse.values import Host, Memory


def _topic(topic: str) -> str:
    if not topic or set(topic) & set("+#\0") or topic.startswith(("/", "$")) or topic.endswith("/"):
        raise ValueError("a topic without +, #, and a slash or $ at its ends")
    return topic


class MqttSettings(OutputSettings):
    """Detections and events to a broker: at least once, in order, kept on disk while it is away."""

    host: Host
    """Name or address of the broker."""
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    """Port of the broker."""
    topic: Annotated[str, AfterValidator(_topic)] = "edgesparse"
    """What all topics begin with."""
    username: str | None = None
    """User at the broker; default: none."""
    password_file: Path | None = None
    """File with the user's password."""
    tls: bool = False
    """Whether the connection is encrypted."""
    ca_file: Path | None = None
    """Certificates that the broker's is verified with; default: the system's."""
    client_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Id at the broker; default: `edgesparse-` and the host name."""
    empty: bool = False
    """Also send frames without detections."""
    snapshots: bool = True
    """Whether a JPEG is published, retained, with each report of an event."""
    discovery: Annotated[str, AfterValidator(_topic)] | None = None
    """Prefix of Home Assistant's discovery topics, usually `homeassistant`; default: nothing is announced."""
    spool: Memory = 64_000_000
    """Most bytes on disk; beyond that the oldest messages are dropped and counted."""

    def check(self, key: str) -> None:
        self.password(key)
        self.tls_context(key)

    def password(self, key: str) -> str | None:
        """Return the password, or None if there is none. Raises ConfigError."""
        return read_secret(self.password_file, f"{key}.password_file") if self.password_file else None

    def tls_context(self, key: str) -> ssl.SSLContext | None:
        """Return the TLS context, or None without TLS. Raises ConfigError."""
        certificates = None if self.ca_file is None else read_certificates(self.ca_file, f"{key}.ca_file")
        if not self.tls:
            return None
        try:
            return watched(ssl.create_default_context(cadata=certificates))
        except (OSError, ValueError):
            raise ConfigError(f"{key}.ca_file: {self.ca_file} holds no certificates in PEM format") from None
