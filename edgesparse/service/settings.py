"""What a device says beside the recipe: its cameras, where detections go, who may look, what the board bears."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from edgesparse.config import Run, override
from edgesparse.errors import ConfigError
from edgesparse.typed import read_mapping, typed
from edgesparse.values import Memory, Positive, Section, Unit
from edgesparse.wording import nearest, nearest_file

SHORTEST_TOKEN = 16
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


def _http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address that starts with http:// or https://")
    return url


def _topic(topic: str) -> str:
    if not topic or set(topic) & set("+#\0") or topic.startswith(("/", "$")) or topic.endswith("/"):
        raise ValueError("a topic without +, #, and a slash or $ at its ends")
    return topic


class Web(Section):
    """The page, /metrics, /healthz, /readyz, /status.json."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080
    token_file: Path | None = None
    """Holds the secret that visitors must show; needed unless the address is this machine's own."""


class Event(Section):
    """When something counts as having happened: what webhook, clips and MQTT's `events` tell of."""

    name: Name
    classes: tuple[str, ...] | None = None
    """By name or number; left out: any."""
    conf: Unit = 0.0
    cameras: tuple[str, ...] | None = None
    zones: tuple[str, ...] | None = None
    """In one of these zones of the camera."""
    count: Count = 1
    """So many at once."""
    frames: Annotated[int, Field(ge=1, le=1000)] = 1
    """In so many detected frames one after another."""
    pause: Seconds = 10.0
    """After one, the same is not told again of the same camera for so many seconds."""


class Mqtt(Section):
    """Detections and events to a broker, at least once, in order; kept on disk while it is away."""

    host: str
    port: Port = 1883
    topic: Annotated[str, AfterValidator(_topic)] = "edgesparse"
    username: str | None = None
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    """Certificates that the broker's is checked against; left out: the system's."""
    client_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    empty: bool = False
    """Whether frames without detections are told too."""
    spool: Memory = 64_000_000
    """Most bytes on disk; beyond it the oldest messages are dropped, and counted."""


class Webhook(Section):
    """Each event as a POST of JSON."""

    url: Annotated[str, AfterValidator(_http)]
    token_file: Path | None = None
    """Holds what is sent as `Authorization: Bearer ...`."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    queue: Count = 1000
    """Most events that wait; beyond it the oldest are dropped, and counted."""
    give_up: Positive = 3600.0
    """Seconds that one event is tried for."""


class Snapshots(Section):
    """What is made of frames for the page and for clips."""

    fps: Annotated[float, Field(gt=0, le=30)] = 8.0
    """Most a second and camera."""
    width: Annotated[int, Field(ge=64, le=3840)] = 960
    """Wider frames are made smaller."""
    quality: Annotated[int, Field(ge=10, le=100)] = 80
    """JPEG's."""


class Clips(Section):
    """A short video around each event."""

    folder: Path | None = None
    """Left out: `clips` in the state folder."""
    before: Annotated[float, Field(ge=0, le=60)] = 4.0
    after: Annotated[float, Field(ge=0, le=60)] = 4.0
    most: Count = 200
    disk: Memory = 2_000_000_000
    """Most bytes of all clips; beyond it, or beyond `most`, the oldest are removed."""


class Lines(Section):
    """JSON lines into a file that is turned over."""

    file: Path
    most: Memory = 100_000_000
    """Bytes of the file before it is renamed to FILE.1 and begun again."""


class Limits(Section):
    """Beyond these the rate goes down, until they hold again."""

    memory: Memory = 300_000_000
    """Bytes that must stay free for others (MemAvailable)."""
    temperature: Annotated[float, Field(ge=40, le=120)] = 92.0
    """Degrees Celsius of the hottest zone."""
    failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Inferences that fail in a row before the fallback takes over."""


class Service(Section):
    web: Web = Web()
    snapshots: Snapshots = Snapshots()
    events: tuple[Event, ...] = ()
    mqtt: Mqtt | None = None
    webhook: Webhook | None = None
    clips: Clips | None = None
    jsonl: Lines | None = None
    limits: Limits = Limits()
    status: Path | None = None
    """Where the state is written each second; left out: status.json in RUNTIME_DIRECTORY, where that is set."""


class _Device(Section):
    run: dict[str, Any] = Field(default_factory=dict)
    service: Service = Service()


@dataclass(frozen=True)
class Settings:
    """`run` is what the file says of a recipe's `run:`, to be laid over it."""

    where: str
    said: dict[str, Any]
    service: Service

    def run(self, recipe: Run) -> Run:
        """The recipe's settings with this device's. Raises ConfigError."""
        return override(recipe, self.said, self.where)


def load_settings(path: Path | None) -> Settings:
    """A device's settings; its paths count from its own folder. What is wrong is a ConfigError of one line."""
    if path is None:
        return Settings("settings", {}, Service())
    where = str(path)
    remedy = "write one with 'run:' (cameras) and 'service:' (web, mqtt, ...), see docs/guide/service.md"
    device = typed(_Device, read_mapping(path, "settings", remedy, "'run:' and 'service:'"), where)
    service = typed(Service, _from(path.parent, device.service.model_dump(mode="json")), where)
    try:
        _check(service)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Settings(where, device.run, service)


_PATHS = {"token_file", "password_file", "ca_file", "folder", "file", "status"}


def _from(base: Path, said: dict[str, Any]) -> dict[str, Any]:
    """`said` with its paths counted from `base`."""

    def moved(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _from(base, value)
        return str(base / value) if key in _PATHS and isinstance(value, str) else value

    return {key: moved(key, value) for key, value in said.items()}


def _check(service: Service) -> None:
    web = service.web
    if web.enabled and not loopback(web.host) and web.token_file is None:
        raise ConfigError(
            f"service.web.host: found {web.host} without a token_file, needed one, since others can reach it: "
            "(umask 077; openssl rand -hex 32 > web.token), or host: 127.0.0.1"
        )
    if web.token_file is not None:
        secret(web.token_file, "service.web.token_file", SHORTEST_TOKEN)
    for said, what in ((service.mqtt, "mqtt"), (service.webhook, "webhook")):
        name = "password_file" if what == "mqtt" else "token_file"
        if said is not None and getattr(said, name) is not None:
            secret(getattr(said, name), f"service.{what}.{name}")
    if service.mqtt is not None and service.mqtt.ca_file is not None and not service.mqtt.ca_file.is_file():
        found = service.mqtt.ca_file
        raise ConfigError(f"service.mqtt.ca_file: no file {found}{nearest_file(found)}")
    _check_events(service)


def _check_events(service: Service) -> None:
    names = [event.name for event in service.events]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"service.events: found '{twice}' twice, needed names that differ")
    for what in ("webhook", "clips"):
        if getattr(service, what) is not None and not names:
            raise ConfigError(
                f"service.{what}: found no events, needed one that says when, as "
                "events: [{name: person, classes: [person]}]"
            )


def check_names(service: Service, cameras: Sequence[str], where: str) -> None:
    """Raise ConfigError where an event names a camera that there is not."""
    for event in service.events:
        for camera in event.cameras or ():
            if camera not in cameras:
                raise ConfigError(
                    f"{where}: service.events: {event.name}: no camera '{camera}'{nearest(camera, cameras)}"
                )


def loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secret(path: Path, key: str, shortest: int = 1) -> str:
    """What stands in a file that strangers may not read. Raises ConfigError."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text().strip()
    except FileNotFoundError:
        raise ConfigError(
            f"{key}: no file {path}{nearest_file(path)}: (umask 077; openssl rand -hex 32 > {path})"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: cannot read {path}: {error}") from None
    if mode & 0o007:
        raise ConfigError(f"{key}: found {path} with mode {mode:o}, needed one that others can't read: chmod o= {path}")
    if len(text) < shortest:
        raise ConfigError(
            f"{key}: found {len(text)} characters in {path}, needed {shortest} or more: openssl rand -hex 32 > {path}"
        )
    return text


def status_path(service: Service) -> Path | None:
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return service.status or (Path(folder) / "status.json" if folder else None)
