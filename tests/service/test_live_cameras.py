"""Cameras added, paused and removed while the service runs: what is allowed, and what the next start finds."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from edgesparse.camera import Camera
from edgesparse.config import Run
from edgesparse.errors import ConfigError
from edgesparse.service.live_cameras import CameraChanges, CameraChangeSettings, CameraRefused, LiveCameras
from edgesparse.service.settings import load_settings
from edgesparse.stream.sources.open import source_kind

SECRET = "rtsp://user:hunter2pass@10.0.0.7/stream"
NAMES = some.lists(some.sampled_from(["door", "yard", "gate", "hall"]), unique=True)


class Host:
    """A service whose settings have one camera."""

    def __init__(self, **settings: Any) -> None:
        self.base = Run(cameras=(Camera(name="door", source="demo"),))
        self.run, self.paused = self.base, dict[str, int]()
        self.settings = CameraChangeSettings(**settings)
        self.live = LiveCameras(self.settings)
        self.run = self.live.changes.applied(self.base)
        self.live.start(self.paused, lambda: self.run.all_cameras(), self.apply)

    def apply(self, changes: CameraChanges) -> None:
        self.run = changes.applied(self.base)

    @property
    def names(self) -> list[str]:
        return [camera.name for camera in self.run.all_cameras()]

    def add(self, name: str, source: str = SECRET, **values: Any) -> None:
        self.live.add({"name": name, "source": source, **values}, "a test")

    def refused(self, name: str, source: str = SECRET) -> tuple[int, str]:
        with pytest.raises(CameraRefused) as error:
            self.add(name, source)
        return error.value.status, str(error.value)


def cameras(names: Sequence[str], source: str) -> tuple[Camera, ...]:
    return tuple(Camera(name=name, source=source) for name in names)


@given(base=NAMES, added=NAMES, removed=NAMES)
def test_changes_keep_every_name_once_and_the_settings_win(
    base: list[str], added: list[str], removed: list[str]
) -> None:
    run = Run(cameras=cameras(base, "0"))
    changed = CameraChanges(added=cameras(added, "1"), removed=tuple(removed)).applied(run).all_cameras()
    names = [camera.name for camera in changed]
    assert len(set(names)) == len(names) and set(names) == (set(base) - set(removed)) | set(added)
    kept = [name for name in base if name not in removed]
    assert names[: len(kept)] == kept, "those of the settings come first, in their order"
    assert all(camera.source == ("0" if camera.name in kept else "1") for camera in changed)
    assert CameraChanges(removed=("nothing",)).applied(run) is run


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("0", "device"), ("/dev/video3", "device"), ("csi://0", "csi"), ("demo:7", "demo"), ("RTSP://x/y", "rtsp"),
        ("https://x/y.jpg", "https"), ("gopher://x", "gopher"), ("/etc/passwd", "file"), ("a.mp4", "file"),
        ("", "file"),
    ],
)  # fmt: skip
def test_the_kind_of_a_source_is_what_it_would_be_opened_as(source: str, kind: str) -> None:
    assert source_kind(source) == kind


def test_only_what_the_settings_allow_is_added(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(most=3)
    for source in ("0", "/dev/video0", "csi://0", "demo", "/etc/passwd", "file:///etc/passwd", "udp://x:1"):
        status, why = host.refused("yard", source)
        assert status == 403 and "needed rtsp, rtsps, http, https: see camera_changes.allow" in why
    for values in ({"name": "Y", "source": SECRET}, {"name": "yard"}, {"name": "yard", "source": SECRET, "x": 1}):
        with pytest.raises(ConfigError):
            host.live.add(values, "a test")
    assert host.refused("door") == (409, "a camera 'door' exists: choose another name")
    host.add("yard", rate=5.0)
    host.add("gate")
    assert host.refused("hall") == (409, "found 3 cameras, the most allowed: see camera_changes.most")
    assert host.names == ["door", "yard", "gate"]
    assert "camera yard was added by a test: rtsp://10.0.0.7/stream" in caplog.text
    assert "hunter2pass" not in caplog.text
    off = LiveCameras()
    with pytest.raises(CameraRefused, match="set service"):
        off.add({"name": "yard", "source": SECRET}, "a test")
    with pytest.raises(CameraRefused, match="the service is starting"):
        LiveCameras(host.settings).add({"name": "yard", "source": SECRET}, "a test")


@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_change_that_waits_for_a_reload_follows_the_new_settings(change: str) -> None:
    host, refusals = Host(), list[CameraRefused]()
    host.add("gate")

    def changed() -> None:
        try:
            host.add("yard") if change == "add" else host.live.remove("gate", "a test")
        except CameraRefused as error:
            refusals.append(error)

    with host.live._lock:
        waits = threading.Thread(target=changed)
        waits.start()
        waits.join(0.2)
        host.live.commit(None, CameraChanges())
    waits.join()
    assert [error.status for error in refusals] == [403] and host.names == ["door", "gate"]


def test_cameras_are_removed_but_never_the_last(tmp_path: Path) -> None:
    host = Host()
    with pytest.raises(CameraRefused, match="door is the only camera, and one is needed: pause it instead"):
        host.live.remove("door", "a test")
    host.add("yard")
    host.live.pause("door", True, "a test")
    host.live.remove("door", "a test")
    assert host.names == ["yard"] and host.paused == {}, "another camera of this name would not be paused"
    host.add("door")
    assert [camera.source for camera in host.run.cameras] == [SECRET, SECRET], "the new one, not that of the settings"
    host.live.remove("door", "a test")
    assert host.names == ["yard"], "that of the settings does not come back"
    with pytest.raises(CameraRefused, match="no such camera: did you mean 'yard'"):
        host.live.remove("yards", "a test")


def test_a_change_that_cannot_be_applied_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(file=tmp_path / "cameras.json")

    def fail(changes: CameraChanges) -> None:
        raise ConfigError("service.events: person: no camera 'yard'")

    monkeypatch.setattr(host.live, "_apply", fail)
    with pytest.raises(ConfigError):
        host.add("yard")
    assert host.live.keep() == "" and not (tmp_path / "cameras.json").exists()


def test_the_next_start_finds_the_changes_in_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "state" / "cameras.json"
    host = Host(file=file)
    assert host.live.keep() == "" and not file.exists(), "nothing was changed"
    host.add("yard", size="640x480", zones={"gate": [[0, 0], [1, 0], [1, 1]]})
    assert file.stat().st_mode & 0o777 == 0o600
    host.paused["yard"] = 1  # as MQTT does
    host.live.keep()
    again = Host(file=file)
    assert again.names == ["door", "yard"] and again.run.cameras[1] == host.run.cameras[1]
    assert list(again.paused) == ["yard"] and again.run.cameras[1].source == SECRET
    file.chmod(0o640)
    again.live.remove("door", "a test")
    assert file.stat().st_mode & 0o777 == 0o640, "its mode is kept"
    assert Host(file=file).names == ["yard"] and [*file.parent.iterdir()] == [file]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change owners")
@pytest.mark.root
def test_the_owner_of_the_file_is_kept_and_a_foreign_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "cameras.json"
    host = Host(file=file)
    host.add("yard")
    os.chown(file, 0, 4321)
    host.add("gate")
    assert file.stat().st_gid == 4321
    os.chown(file, 4321, 4321)
    with pytest.raises(ConfigError, match="owned by user 4321, needed root"):
        Host(file=file)


def test_a_file_that_others_can_read_is_refused_and_a_damaged_one_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "cameras.json"
    Host(file=file).add("yard")
    file.chmod(0o604)
    with pytest.raises(ConfigError, match=f"others can open .*: chmod o= {file}"):
        Host(file=file)
    file.chmod(0o600)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(ConfigError, match="not a regular file"):
        Host(file=tmp_path / "link")
    for damage in ("{", "[]", '{"added": [{"name": "yard"}]}', '{"more": 1}', "\0" * 9, "[" * 90_000):
        file.write_text(damage)
        assert Host(file=file).names == ["door"] and not file.exists()
        file.touch(0o600)
    assert caplog.text.count("is damaged") == 6


def test_a_file_that_cannot_be_written_is_told_at_once_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    host = Host(file=folder / "cameras.json")
    folder.write_text("a file, where the folder should be")
    status, why = host.refused("yard")
    assert status == 500 and why.startswith("the camera was added, but only until the service ends: ")
    assert host.names == ["door", "yard"]
    folder.unlink()
    assert host.live.keep() == "" and Host(file=folder / "cameras.json").names == ["door", "yard"]


def test_reloads_keep_changes_unless_the_section_is_removed(tmp_path: Path) -> None:
    host = Host()
    host.add("yard")
    assert host.live.reload(host.settings) == host.live.changes
    assert host.live.reload(None) == CameraChanges()
    other = tmp_path / "other.json"
    named = CameraChangeSettings(file=other)
    host.live.commit(named, host.live.reload(named))
    assert host.live.keep() == "" and "yard" in other.read_text(), "a file that is new gets what there is"
    stored = tmp_path / "stored.json"
    stored.write_text(json.dumps({"added": [{"name": "gate", "source": "demo"}]}))
    stored.chmod(0o600)
    changes = host.live.reload(CameraChangeSettings(file=stored))
    assert [camera.name for camera in changes.added] == ["gate"]


@pytest.mark.parametrize("kind", ["device", "csi", "file"])
def test_sources_of_this_machine_need_a_token(tmp_path: Path, kind: str) -> None:
    settings = tmp_path / "device.yaml"
    settings.write_text(json.dumps({"service": {"camera_changes": {"allow": [kind], "file": "cameras.json"}}}))
    with pytest.raises(ConfigError, match=f"camera_changes.allow: found {kind} without a service.web.token_file"):
        load_settings(settings)
    (tmp_path / "web.token").write_text("a-token-of-this-test-0123456789")
    (tmp_path / "web.token").chmod(0o600)
    section = {"web": {"token_file": "web.token"}, "camera_changes": {"allow": [kind], "file": "cameras.json"}}
    settings.write_text(json.dumps({"service": section}))
    changes = load_settings(settings).service.camera_changes
    assert changes is not None and changes.file == tmp_path / "cameras.json", "relative to the settings"
