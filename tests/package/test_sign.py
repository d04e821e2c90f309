"""The keyed hash of packages with native code: without it, nothing is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packages import manifest, stored

from edgesparse.device import state_folder
from edgesparse.errors import SignatureError
from edgesparse.package import sign
from edgesparse.package.store import Store, open_package, sealed


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a new device."""
    folder = tmp_path / "device"
    monkeypatch.setenv(sign.STATE, str(folder))
    return folder


def refused(root: Path) -> str:
    with pytest.raises(SignatureError) as caught:
        open_package(root)
    assert Store(root, "model").find("aaa") is None
    assert "\n" not in str(caught.value) and "edgesparse build" in str(caught.value)
    return str(caught.value)


def test_a_hash_with_a_line_break_is_quoted_on_one_line(device: Path) -> None:
    sign.create_key()
    reason = sign.mismatch("\nab\n" + 20 * "0", b"data")
    assert reason is not None and reason.startswith("found the keyed hash ab 000000000, needed")


def test_a_package_that_was_built_here_is_opened(tmp_path: Path, device: Path) -> None:
    assert open_package(stored(tmp_path)).manifest.mac
    assert (device / "key").stat().st_mode & 0o777 == 0o600 and len((device / "key").read_bytes()) == 32


def test_a_changed_package_is_refused(tmp_path: Path, device: Path) -> None:
    """An engine that was swapped together with its hash."""
    folder = stored(tmp_path)
    (folder / "model.json").write_text('"evil"')
    content = json.loads((folder / "manifest.json").read_text())
    content["files"]["model.json"] = subprocess.run(
        ["sha256sum", folder / "model.json"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    (folder / "manifest.json").write_text(json.dumps(content))
    message = refused(tmp_path)
    assert "found the keyed hash" in message and f"needed one by this device's key {device / 'key'}" in message


def test_a_package_of_another_device_is_refused(tmp_path: Path, device: Path) -> None:
    stored(tmp_path)
    shutil.move(device, tmp_path / "another")
    assert "found no key of this device" in refused(tmp_path)
    sign.create_key()
    assert "it was changed, or built elsewhere" in refused(tmp_path)


def test_a_package_without_a_keyed_hash_is_refused(tmp_path: Path, device: Path) -> None:
    folder = stored(tmp_path)
    content = json.loads((folder / "manifest.json").read_text())
    del content["mac"]
    (folder / "manifest.json").write_text(json.dumps(content))
    assert "found no keyed hash" in refused(tmp_path)


def test_packages_without_native_code_need_no_key(device: Path) -> None:
    plain = manifest(backend="onnxruntime")
    assert sealed(plain) == plain and not device.exists()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, device: Path) -> None:
    stored(tmp_path)
    (device / "key").chmod(0o644)
    with pytest.raises(SignatureError, match=r"key: found mode 644, needed 600: run 'chmod 600 "):
        open_package(tmp_path / "model/aaa")
    (device / "key").chmod(0o600)
    (device / "key").write_bytes(b"short")
    with pytest.raises(SignatureError, match=r"key is damaged: remove it, and build the packages again"):
        open_package(tmp_path / "model/aaa")


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(sign.STATE, str(tmp_path / "file"))
    with pytest.raises(SignatureError, match="Not a directory"):
        sealed(manifest())


def test_processes_that_create_the_key_in_parallel_agree(device: Path) -> None:
    program = "from edgesparse.package.sign import create_key; print(create_key().hex())"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = {process.communicate()[0] for process in running}
    assert keys == {(device / "key").read_bytes().hex() + "\n"}
    assert [path.name for path in device.iterdir()] == ["key"]


def test_the_state_folder_is_the_systems_for_root_and_the_users_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sign.STATE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_folder() == Path("/var/lib/edgesparse")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/a/state")
    assert state_folder() == Path("/home/a/state/edgesparse")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder() == Path.home() / ".local/state/edgesparse"
