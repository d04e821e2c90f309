"""A device's settings: its cameras, its outputs, who may see the web page, and its limits."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from edgesparse.camera import check_together
from edgesparse.config import Run, override
from edgesparse.errors import ConfigError
from edgesparse.service.credentials import SHORTEST_TOKEN, check_owner, read_secret
from edgesparse.service.live_cameras import LOCAL, CameraChanges, CameraChangeSettings
from edgesparse.service.monitor.drift_settings import EVENT, DriftSettings
from edgesparse.service.monitor.hard_settings import HardFrameSettings
from edgesparse.service.outputs.base import OutputSettings
from edgesparse.service.outputs.events import MOST_RULES, EventRule
from edgesparse.service.outputs.table import OUTPUTS
from edgesparse.service.snapshots import SnapshotSettings
from edgesparse.typed import S, read_mapping, typed
from edgesparse.values import Host, Memory, Section
from edgesparse.wording import nearest


class WebSettings(Section):
    """The web page, /metrics, /healthz, /readyz, /status.json."""

    enabled: bool = True
    """Run the web server."""
    host: Host = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """TCP port to listen on."""
    hosts: tuple[Host, ...] = ()
    """Further host names by which the page may be reached without a token, such as that of a proxy on this device."""
    inference: bool = True
    """Answer images that are sent to /v1/detect and /v2, with what the cameras leave of the engine."""
    token_file: Path | None = None
    """File with the token that visitors must present; required unless the host is this machine's own."""

    def token(self) -> str | None:
        """Return the token, or None if there is none. Raises ConfigError."""
        if self.token_file is None:
            return None
        return read_secret(self.token_file, "service.web.token_file", SHORTEST_TOKEN)


class LimitSettings(Section):
    """Limits beyond which the frame rate is reduced, until they are met again."""

    memory: Memory = 300_000_000
    """Bytes that must stay free for other processes (MemAvailable)."""
    temperature: Annotated[float, Field(ge=40, le=120)] = 92.0
    """Highest temperature of any zone, in degrees Celsius."""
    failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Failed inferences in a row after which the fallback takes over."""


class ServiceSettings(Section):
    """Web page, events, outputs, limits."""  # settings_type adds the outputs' sections

    web: WebSettings = WebSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    events: Annotated[tuple[EventRule, ...], Field(max_length=MOST_RULES)] = ()
    limits: LimitSettings = LimitSettings()
    camera_changes: CameraChangeSettings | None = None
    """Lets the web page and HTTP add and remove cameras; default: they can only pause them."""
    drift: DriftSettings | None = None
    """Reports when a camera no longer shows what it did in its first week; default: off."""
    hard_frames: HardFrameSettings | None = None
    """Stores frames on which the detector was unsure; default: off."""
    status: Path | None = None
    """File to write the state to each second; default: status.json in RUNTIME_DIRECTORY, if that is set."""

    @property
    def outputs(self) -> dict[str, OutputSettings]:
        """The sections of the configured outputs, by key."""
        sections = {name: getattr(self, name, None) for name in OUTPUTS}
        return {name: section for name, section in sections.items() if section is not None}


def settings_type() -> type[ServiceSettings]:
    """Return ServiceSettings with an optional section for each output of the table."""
    sections: dict[str, Any] = {name: (kind.settings_type | None, None) for name, kind in OUTPUTS.items()}
    return create_model("ServiceSettings", __base__=ServiceSettings, __doc__=ServiceSettings.__doc__, **sections)


@dataclass(frozen=True)
class Settings:
    """A device's settings. `overrides` are its `run:` section, laid over the recipe's; `changes` are those of its
    cameras since it started.
    """

    where: str
    overrides: dict[str, Any]
    service: ServiceSettings
    only_requests: bool = False
    """Whether it has no camera, and only answers requests over HTTP."""
    changes: CameraChanges = field(default_factory=CameraChanges)

    def run(self, recipe: Run) -> Run:
        """Return the recipe's `run:` section with this device's values. Raises ConfigError."""
        return self.changes.applied(override(recipe, self.overrides, self.where))


def load_settings(path: Path | None) -> Settings:
    """Read a device's settings; relative paths are relative to the file. Raises ConfigError, also for a file that other
    users than root and this one could change: it names what is sent, where to, and whom the service believes.
    """
    if path is None:
        return Settings("settings", {}, settings_type()())
    where, sections = str(path), settings_type()
    remedy = "write one with 'run:' (cameras) and 'service:' (web, mqtt, ...), see docs/guide/service.md"
    device: Any = create_model(
        "DeviceSettings",
        __base__=Section,
        run=(dict[str, Any], Field(default_factory=dict)),
        service=(sections, sections()),
    )
    check = partial(check_owner, path, "settings")
    values = typed(device, read_mapping(path, "settings", remedy, "'run:' and 'service:'", check), where)
    service = _resolved(values.service, path.parent)  # type: ignore[attr-defined]
    try:
        _check(service)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Settings(where, values.run, service)  # type: ignore[attr-defined]


def for_requests(settings: Settings, web: Mapping[str, Any]) -> Settings:
    """Return the settings of a service without cameras, with changes of `service.web`. Raises ConfigError."""
    keys = [f"run.{key}" for key in ("source", "cameras") if key in settings.overrides]
    keys += ["service.camera_changes"] if settings.service.camera_changes is not None else []
    if keys:
        raise ConfigError(
            f"{settings.where}: found {keys[0]}, needed settings without cameras: remove it, or use "
            "'edgesparse run --service', which answers the same requests beside its cameras"
        )
    known = settings.service.web.model_dump() | {"enabled": True, "inference": True}
    changed = typed(WebSettings, known | dict(web), "command line")
    service = settings.service.model_copy(update={"web": changed})
    _check(service)
    return replace(settings, overrides={**settings.overrides, "cameras": []}, service=service, only_requests=True)


def _resolved(section: S, folder: Path) -> S:
    """Return the section with its relative paths, and those of the sections in it, relative to `folder`."""
    changes: dict[str, Any] = {}
    for key, value in section:
        if isinstance(value, Path):
            changes[key] = folder / value
        elif isinstance(value, Section):
            changes[key] = _resolved(value, folder)
    return section.model_copy(update=changes)


def _check(service: ServiceSettings) -> None:
    web = service.web
    if web.enabled and not loopback(web.host) and web.token_file is None:
        raise ConfigError(
            f"service.web.host: found {web.host} without a token_file, needed one, since others can reach it: "
            "(umask 077; openssl rand -hex 32 > web.token), or host: 127.0.0.1"
        )
    web.token()
    local = [kind for kind in (service.camera_changes.allow if service.camera_changes else ()) if kind in LOCAL]
    if local and web.token_file is None:
        raise ConfigError(
            f"service.camera_changes.allow: found {local[0]} without a service.web.token_file, needed one, since any "
            "user of this machine could look through its cameras: (umask 077; openssl rand -hex 32 > web.token)"
        )
    for name, section in service.outputs.items():
        section.check(f"service.{name}")
    _check_events(service)


def _check_events(service: ServiceSettings) -> None:
    names = [rule.name for rule in service.events]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"service.events: found '{repeated}' twice, needed names that differ")
    if service.drift is not None and EVENT in names:
        raise ConfigError(f"service.events: found '{EVENT}', needed another name, since service.drift reports so")
    for name, section in service.outputs.items():
        if section.needs_events and not names and (service.drift is None or not section.takes_alarms):
            raise ConfigError(
                f"service.{name}: found no events, needed one that says when, as "
                "events: [{name: person, classes: [person]}]"
            )


def check_cameras(service: ServiceSettings, run: Run, where: str) -> None:
    """Raise ConfigError if a camera that was added later has lines without tracking, or an event rule needs a camera,
    zone, line or tracking that does not exist.
    """
    try:
        check_together(run.cameras, tracking=bool(run.tracking))
    except ValueError as error:
        raise ConfigError(f"{where}: run: needed {error}") from None
    cameras = {camera.name: camera for camera in run.all_cameras()}
    for rule in service.events:
        at = f"{where}: service.events: {rule.name}"
        for name in rule.cameras or ():
            if name not in cameras:
                raise ConfigError(f"{at}: no camera '{name}'{nearest(name, list(cameras))}")
        watched = [camera for name, camera in cameras.items() if name in (rule.cameras or cameras)]
        for kind, names in (("zone", rule.zones), ("line", rule.lines)):
            known = sorted({name for camera in watched for name in getattr(camera, f"{kind}s")})
            for name in names or ():
                if name not in known:
                    raise ConfigError(f"{at}: no {kind} '{name}'{nearest(name, known) if known else ''}")
        if rule.dwell is not None and not run.tracking:
            raise ConfigError(f"{at}: dwell: found no tracking, needed run.tracking: bytetrack (or sort)")


def loopback(host: str) -> bool:
    """Whether only this machine can reach the host address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def status_path(service: ServiceSettings) -> Path | None:
    """Return the file that the state is written to, or None if there is none."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return service.status or (Path(folder) / "status.json" if folder else None)
