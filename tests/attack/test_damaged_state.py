"""Promise: a damaged state file is set aside with the reason, and the device still runs and deploys."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import packages
import pytest
from browser import free_port
from pydantic import ValidationError
from samples import output_context

from edgesparse.errors import ConfigError, PackageError
from edgesparse.fleet import contents
from edgesparse.fleet.bundle import BundleManifest
from edgesparse.fleet.state import DamagedState, SlotRecord, read_state
from edgesparse.package import manifest as manifests
from edgesparse.package.store import find_package
from edgesparse.service.failed import FailedEngines
from edgesparse.service.outputs.mqtt import Mqtt, MqttSettings
from edgesparse.service.outputs.spool import Message, Spool


def script(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with sqlite3.connect(path) as db:
            db.executescript(text)
        db.close()

    return write


TABLE = "CREATE TABLE messages (number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, payload BLOB, size INTEGER);"
SPOOLS: dict[str, Callable[[Path], Any]] = {
    "no database": lambda path: path.write_bytes(b"x" * 5000),
    "a torn database": lambda path: (script(TABLE)(path), os.truncate(path, 5000)),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link": lambda path: path.symlink_to("/dev/zero"),
    "other columns": script("CREATE TABLE messages (a);"),
    "no sequence": script("CREATE TABLE messages (number INTEGER PRIMARY KEY, topic, payload, size);"),
    "a view": script("CREATE VIEW messages AS SELECT 1 AS number;"),
    "no topic": script(TABLE + "INSERT INTO messages VALUES (1, NULL, x'7b7d', 44);"),
    "text as payload": script(TABLE + "INSERT INTO messages VALUES (1, 't', 'text', 44);"),
    "a negative size": script(TABLE + "INSERT INTO messages VALUES (1, 't', x'7b7d', -1e9);"),
    "a text as number": script(TABLE + "INSERT INTO sqlite_sequence VALUES ('messages', 'x');"),
}


@pytest.mark.parametrize("kind", SPOOLS)
def test_a_damaged_spool_is_set_aside_and_messages_are_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spool" / "mqtt.sqlite"
    path.parent.mkdir()
    SPOOLS[kind](path)
    mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=free_port()), output_context(tmp_path))
    mqtt.put("door/events", lambda: '{"a":1}')
    mqtt.close()
    assert len(list(path.parent.glob("mqtt.sqlite.damaged-*"))) == 1
    spool = Spool(path, 1_000_000)
    assert [message.payload for message in spool.after(0, 10)] == [b'{"a":1}']
    spool.close()


def test_a_sound_spool_is_not_set_aside(tmp_path: Path) -> None:
    for number in (1, 2):
        spool = Spool(tmp_path / "x.sqlite", 1_000_000)
        spool.append([Message(number, "t", b"{}")])
        spool.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.sqlite"] and spool.count == 2


@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "/etc/passwd", "a/b", "a\0b", "x" * 300])
@pytest.mark.parametrize("key", ["build_id", "model", "engine", "fallback", "files"])
def test_a_manifest_names_nothing_outside_its_folder(tmp_path: Path, key: str, name: str) -> None:
    folder = packages.stored(tmp_path)
    path = folder / manifests.FILE
    manifest = packages.manifest().model_copy(update={key: {name: "0" * 64} if key == "files" else name})
    path.write_text(manifest.model_dump_json())
    with pytest.raises(PackageError, match=f"damaged at {key}.*build it again") as caught:
        find_package(folder)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("file", [manifests.FILE, manifests.ADDRESSES])
@pytest.mark.parametrize("kind", ["pipe", "device", "large", "deep", "binary", "folder"])
def test_a_package_with_a_damaged_file_is_refused_or_goes_on_without_it(
    tmp_path: Path, file: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MAX_BYTES", 100_000)
    folder = packages.stored(tmp_path)
    path = folder / file
    path.unlink(missing_ok=True)
    actions: dict[str, Callable[[], Any]] = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "large": lambda: path.write_text(" " * 200_000),
        "deep": lambda: path.write_text("[" * 90_000),
        "binary": lambda: path.write_bytes(b"\xff\xfe\x00" * 9),
        "folder": path.mkdir,
    }
    actions[kind]()
    if file == manifests.ADDRESSES:
        assert find_package(folder).manifest.build_id == "aaa"
    else:
        with pytest.raises(PackageError, match="is damaged"):
            find_package(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"b": 1}}', "[" * 90_000, '{"aaa": "' + "x" * 2_000_000 + '"}'])
def test_a_list_of_failed_engines_that_is_damaged_is_forgotten(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    (tmp_path / "failed-engines.json").write_text(text)
    assert FailedEngines().reason("aaa") is None
    (tmp_path / "failed-engines.json").unlink()
    os.mkfifo(tmp_path / "failed-engines.json")
    failed = FailedEngines()
    failed.add("aaa", "why")
    assert FailedEngines().reason("aaa") == "why"


@pytest.mark.parametrize("epoch", ["1000000000000000", "99999999999999999999", "-5", "abc", "1e3", "\u0661"])
def test_a_time_that_is_none_is_one_line(epoch: str) -> None:
    with pytest.raises(ConfigError, match=r"found SOURCE_DATE_EPOCH=.*, needed seconds since 1970"):
        contents._time(epoch, [])


def test_a_file_from_before_1970_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (0, -1000))
    with pytest.raises(ConfigError, match="was changed at -1000 s, needed a time after 1970: touch it"):
        contents._time(None, [tmp_path / "a"])


@pytest.mark.parametrize("seconds", [1 << 38, 1 << 62, -1])
def test_a_time_beyond_what_can_be_shown_is_damage(tmp_path: Path, seconds: int) -> None:
    path = tmp_path / "slot.json"
    path.write_text(json.dumps({"bundle": "0", "name": "m", "version": "1", "time": seconds}))
    with pytest.raises(DamagedState, match="time: "):
        read_state(path, SlotRecord)
    with pytest.raises(ValidationError):
        BundleManifest(name="m", version="1", time=seconds, key="", files=())
