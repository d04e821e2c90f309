"""A device's settings: an error is one line with what was found and how to fix it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from edgesparse.config import Camera, Run
from edgesparse.errors import ConfigError
from edgesparse.service.live_cameras import CameraChanges
from edgesparse.service.settings import check_cameras, load_settings, loopback, settings_type, status_path
from edgesparse.values import Section

CAMERAS = "run: {cameras: [{name: door, source: demo}]}\n"


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "device.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        settings = load_settings(path)
        check_cameras(settings.service, settings.run(Run()), settings.where)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "service: {web: {port: 99999}}",
            "service.web.port: found 99999 (a whole number), needed at most",
        ),
        ("service: {web: {prot: 8080}}", "unknown key 'service.web.prot': did you mean 'port'?"),
        ("service: {mqqt: {host: x}}", "unknown key 'service.mqqt': did you mean 'mqtt'?"),
        ("servce: {}", "unknown key 'servce': did you mean 'service'?"),
        ("service: {mqtt: {}}", "'service.mqtt.host' is missing"),
        ("service: {mqtt: {host: x, topic: 'a/#'}}", "service.mqtt.topic: found 'a/#' (text), needed a topic without"),
        ("service: {webhook: {url: ftp://x}}", "service.webhook.url: found 'ftp://x' (text), needed an address that"),
        ("service: {limits: {temperature: 30}}", "service.limits.temperature: found 30 (a whole number), needed"),
        ("service: {limits: {memory: lots}}", "service.limits.memory: found 'lots' (text), needed"),
        ("service: {events: [{name: A b}]}", "service.events.0.name: found 'A b' (text), needed"),
        (
            "service: {events: [{name: a, clases: [x]}]}",
            "unknown key 'service.events.0.clases': did you mean 'classes'?",
        ),
        ("service: {events: [{name: a}, {name: a}]}", "service.events: found 'a' twice, needed names that differ"),
        ("service: {clips: {}}", "service.clips: found no events, needed one that says when"),
        ("service: {webhook: {url: http://x}}", "service.webhook: found no events, needed one that says when"),
        ("service: {events: [{name: a, zones: [gat]}]}", "service.events: a: no zone 'gat'"),
        ("service: {events: [{name: a, lines: [way]}]}", "service.events: a: no line 'way'"),
        (
            "service: {events: [{name: a, dwell: 3}]}",
            "service.events: a: dwell: found no tracking, needed run.tracking",
        ),
        (
            "service: {events: [{name: a, direction: in}]}",
            "service.events.0: found {'name': 'a', 'direction': 'in'} (a mapping), needed lines",
        ),
        (
            "service: {events: [{name: a, lines: [x], frames: 2}]}",
            "service.events.0: found {'name': 'a', 'lines': ['x'], 'frames': 2} (a mapping), needed frames: 1",
        ),
        ("service: {drift: {}, events: [{name: drift}]}", "service.events: found 'drift', needed another name"),
        ("service: {drift: {}, clips: {}}", "service.clips: found no events, needed one that says when"),
        ("service: {drift: {window: 200}}", "service.drift.window: found 200 (a whole number), needed"),
        ("service: {events: [{name: a, cameras: [dor]}]}", "service.events: a: no camera 'dor': did you mean 'door'?"),
        ("service: {web: {host: 0.0.0.0}}", "service.web.host: found 0.0.0.0 without a token_file, needed one"),
        ("service: {web: {host: cam.local}}", "service.web.host: found cam.local without a token_file, needed one"),
        ("service: {web: {token_file: gone}}", "service.web.token_file: no file "),
        ("service: {mqtt: {host: x, password_file: gone}}", "service.mqtt.password_file: no file "),
        ("service: {mqtt: {host: x, ca_file: gone}}", "service.mqtt.ca_file: no file "),
        ("[]", "found a list, needed a mapping with 'run:' and 'service:'"),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text if text == "[]" else CAMERAS + text).startswith(message)


def test_an_invalid_camera_is_refused(tmp_path: Path) -> None:
    assert "run.cameras.0.name" in refused(tmp_path, "run: {cameras: [{name: Door 1, source: demo}]}")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no settings .*device.yaml: write one with 'run:'"):
        load_settings(tmp_path / "device.yaml")


@pytest.mark.parametrize(("mode", "text", "message"), [(0o644, "x" * 32, "mode 644, needed one that others can't read"),
                                                    (0o600, "short", "found 5 characters in ")])  # fmt: skip
def test_an_unusable_token_is_refused(tmp_path: Path, mode: int, text: str, message: str) -> None:
    token = tmp_path / "web.token"
    token.write_text(text)
    token.chmod(mode)
    assert message in refused(tmp_path, "service: {web: {host: 0.0.0.0, token_file: web.token}}")


def test_paths_are_relative_to_the_file_and_the_device_overrides_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    (tmp_path / "web.token").write_text("x" * 32)
    (tmp_path / "web.token").chmod(0o640)
    path = tmp_path / "device.yaml"
    path.write_text(
        "run: {cameras: [{name: door, source: demo}], conf: 0.5}\n"
        "service: {web: {host: '::', token_file: web.token}, status: run/s.json,\n"
        "  events: [{name: e}], clips: {folder: c}}"
    )
    settings = load_settings(path)
    assert settings.service.web.token_file == tmp_path / "web.token"
    assert settings.service.outputs["clips"].folder == tmp_path / "c"  # type: ignore[attr-defined]
    assert status_path(settings.service) == tmp_path / "run" / "s.json"
    run = settings.run(Run(source="0", iou=0.6))
    assert [camera.name for camera in run.all_cameras()] == ["door"]
    assert (run.conf, run.iou) == (0.5, 0.6)


def test_the_state_file_is_in_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/edgesparse:/run/other")
    assert status_path(load_settings(None).service) == Path("/run/edgesparse/status.json")


def keys(section: type[Section], before: str = "") -> list[str]:
    names = []
    for name, field in section.model_fields.items():
        inner = [part for part in (field.annotation, *get_args(field.annotation)) if _is_section(part)]
        if inner:
            names += keys(inner[0], f"{before}{name}{'[]' if get_args(field.annotation)[1:] == (...,) else ''}.")
        else:
            names.append(before + name)
    return names


def _is_section(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, Section)


def test_every_key_is_text_in_yaml() -> None:
    """A bare `on` or `no` would be a boolean."""
    words = [word.removesuffix("[]") for key in keys(settings_type()) for word in key.split(".")]
    assert all(isinstance(yaml.safe_load(word), str) for word in words)


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x", False)],
)
def test_loopback_addresses(host: str, own: bool) -> None:
    assert loopback(host) == own


def test_a_camera_with_lines_that_was_added_later_needs_tracking() -> None:
    line: Any = ((0.5, 0), (0.5, 1))
    added = CameraChanges(added=(Camera(name="gate", source="demo", lines={"way": line}),))
    service = settings_type()()
    check_cameras(service, added.applied(Run(tracking=True)), "here")
    with pytest.raises(ConfigError, match=r"^here: run: needed tracking: bytetrack \(or sort\), since camera gate has"):
        check_cameras(service, added.applied(Run()), "here")
