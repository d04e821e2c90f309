"""Promise: root and the service never write, read or remove a file that someone else put in place of theirs."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import bundles
import packages
import pytest

from deploy.provision import software
from deploy.provision.system import StepFailed, System
from edgesparse import device
from edgesparse.cli import process
from edgesparse.errors import ConfigError, SignatureError
from edgesparse.files import read_regular, replace_text
from edgesparse.fleet import keys
from edgesparse.fleet.owner import as_owner
from edgesparse.fleet.restart import ServiceControl
from edgesparse.fleet.slots import Root
from edgesparse.fleet.status import status
from edgesparse.package import sign
from edgesparse.package.store import open_package
from edgesparse.service.credentials import read_certificates, read_secret
from edgesparse.service.settings import load_settings

NOBODY = 65534
pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def is_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file owned by root, which must be unchanged afterwards."""
    path = tmp_path / "root" / "secret.json"
    path.parent.mkdir(mode=0o700)
    path.write_text('{"precious": true}')
    path.chmod(0o600)
    yield path
    status = path.stat()
    assert path.read_text() == '{"precious": true}' and (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.json"]


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Path]:
    """A folder of the compromised service user, outside pytest's folder, which only root may enter."""
    with tempfile.TemporaryDirectory(prefix="taken-") as name:
        outer = Path(name)
        outer.chmod(0o755)
        folder = outer / "taken"
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
        yield folder


def test_provisioning_writes_only_into_folders_of_root(secret: Path, taken: Path) -> None:
    (taken / "out").symlink_to(secret.parent)
    machine = System(taken.parent)
    for name in ("/taken/report.json", "/taken/out/secret.json", "/taken/new/report.json"):
        with pytest.raises(StepFailed, match="belongs to user 65534, needed root"):
            machine.write(name, "{}", 0o644)
    assert [entry.name for entry in taken.iterdir()] == ["out"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_provisioning_does_not_write_where_others_can(tmp_path: Path, mode: int) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    with pytest.raises(StepFailed, match=f"/shared has mode {mode:o}: others can write there"):
        System(tmp_path).write("/shared/a", "")


def test_provisioning_follows_links_of_root_and_replaces_a_link_in_the_place_of_a_file(
    tmp_path: Path, secret: Path
) -> None:
    (tmp_path / "disk").mkdir()
    for name, target in (("absolute", "/disk"), ("relative", "root/../disk"), ("loop", "/loop")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "disk" / "a").symlink_to(secret)
    machine = System(tmp_path)
    machine.write("/absolute/a", "1")
    machine.write("/relative/b/c", "2", 0o640)
    assert (
        not (tmp_path / "disk/a").is_symlink() and machine.read("/disk/a") == "1" and machine.read("/disk/b/c") == "2"
    )
    assert stat.S_IMODE((tmp_path / "disk/b/c").stat().st_mode) == 0o640
    with pytest.raises(StepFailed, match="too many links"):
        machine.write("/loop/a", "")


def test_provisioning_gives_no_folder_away_that_a_link_leads_to(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "state").symlink_to(secret.parent)
    with pytest.raises(OSError, match="state"):
        System(tmp_path).make_folder("/state", 0o755, "nobody")
    System(tmp_path).make_folder("/own", 0o750, "nobody")
    status = (tmp_path / "own").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY, 0o750)
    assert secret.parent.stat().st_uid == 0


def test_roots_state_is_never_in_a_folder_of_another_user(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device.STATE, str(taken))
    with pytest.raises(ConfigError, match=r"belongs to user 65534.*sudo -u '#65534'"):
        device.state_folder()
    with as_owner(taken):
        assert device.state_folder() == taken


@pytest.mark.parametrize("attack", ["another owner", "a link", "open to all"])
def test_a_report_of_an_error_is_not_written_where_others_can_reach_it(
    tmp_path: Path, secret: Path, taken: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions: dict[str, Callable[[], object]] = {
        "another owner": lambda: None,
        "a link": lambda: (taken.rmdir(), taken.symlink_to(secret.parent)),
        "open to all": lambda: (os.chown(taken, 0, 0), taken.chmod(0o777)),
    }
    actions[attack]()
    monkeypatch.setattr(process, "_folders", lambda: [taken, tmp_path / "safe"])
    line = process.report(ValueError("x"), [])
    (report,) = (tmp_path / "safe").iterdir()
    assert str(report) in line and stat.S_IMODE(report.stat().st_mode) == 0o600


def owned(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def test_keys_of_another_user_are_refused_whatever_their_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = bundles.key(tmp_path)
    owned(private)
    with pytest.raises(SignatureError, match="owned by user 65534, needed root"):
        keys.read_private(private)
    monkeypatch.setenv(device.STATE, str(tmp_path / "state"))
    package = packages.stored(tmp_path / "store")
    owned(tmp_path / "state" / "key")
    with pytest.raises(SignatureError, match="owned by user 65534, needed root"):
        open_package(package)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_key_that_is_no_file_is_refused_and_never_blocks(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(device.STATE, str(tmp_path))
    (tmp_path / "trusted").mkdir()
    for path in (tmp_path / "key", tmp_path / "trusted" / "a.pub", tmp_path / "x.key"):
        if kind == "pipe":
            os.mkfifo(path, 0o600)
        elif kind == "folder":
            path.mkdir(0o700)
        else:
            path.symlink_to("/dev/zero")
    for read in (
        sign.create_key,
        lambda: keys.trusted(tmp_path / "trusted"),
        lambda: keys.read_private(tmp_path / "x.key"),
    ):
        with pytest.raises(SignatureError, match=r"not a regular file|Is a directory"):
            read()


@pytest.mark.parametrize("key", ["web.token_file", "webhook.token_file", "mqtt.password_file", "mqtt.ca_file"])
def test_a_secret_and_a_certificate_of_another_user_are_refused(tmp_path: Path, key: str) -> None:
    section, _, name = key.partition(".")
    file = tmp_path / "file"
    file.write_text("0123456789abcdef")
    file.chmod(0o600)
    needed = {"web": {}, "mqtt": {"host": "localhost"}, "webhook": {"url": "http://localhost/"}}[section]
    events = {"events": [{"name": "any"}]}
    settings = tmp_path / "device.yaml"
    settings.write_text(json.dumps({"service": {section: {**needed, name: "file"}, **events}}))
    load_settings(settings)
    os.chown(file, NOBODY, -1)
    with pytest.raises(ConfigError, match=rf"service.{key}: \S+: owned by user 65534, needed root .*: chown root "):
        load_settings(settings)


def test_a_secret_is_read_without_following_a_link(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "token").symlink_to(secret)
    with pytest.raises(ConfigError, match=rf"key: \S+ is a link, needed the file itself: name {secret}") as caught:
        read_secret(tmp_path / "token", "key")
    assert "precious" not in str(caught.value)


def test_settings_and_certificates_that_others_may_change_are_refused(tmp_path: Path) -> None:
    settings = tmp_path / "device.yaml"
    settings.write_text("service: {web: {enabled: false}}")
    for change, reason in (
        (lambda: settings.chmod(0o666), "found mode 666, which lets others change it: chmod o-w "),
        (lambda: (settings.chmod(0o644), os.chown(settings, NOBODY, -1)), "owned by user 65534, needed root or user 0"),
    ):
        change()
        with pytest.raises(ConfigError, match=f"settings: \\S+: {reason}"):
            load_settings(settings)
        with pytest.raises(ConfigError, match=f"key: \\S+: {reason}"):
            read_certificates(settings, "key")


def test_the_state_of_a_device_is_read_as_its_owner(tmp_path: Path, secret: Path, taken: Path) -> None:
    for name in ("deploy.json", "history.jsonl", "status.json"):
        (taken / name).symlink_to(secret)
    (taken / "slots" / "a").mkdir(parents=True)
    (taken / "slots" / "a" / "slot.json").symlink_to(secret)
    (taken / "current").symlink_to("slots/a")
    text = json.dumps(status(Root(taken), ServiceControl(status=taken / "status.json")))
    assert "precious" not in text


def test_a_check_of_a_deploy_removes_nothing_through_a_link(tmp_path: Path, secret: Path, taken: Path) -> None:
    private = bundles.key(tmp_path)
    with bundles.opened(bundles.signed(tmp_path / "1.esb", private, "1.0")) as source:
        seen: list[int] = []
        admitted = type(source).missing
        type(source).missing = lambda self, root: (seen.append(os.geteuid()), admitted(self, root))[1]  # type: ignore
        try:
            bundles.device(taken).check(source)
        finally:
            type(source).missing = admitted  # type: ignore[method-assign]
    assert seen and set(seen) == {NOBODY}


def test_files_are_read_and_written_without_following_a_link(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "a").symlink_to(secret)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "a", 100)
    (tmp_path / f".b.{os.getpid()}.part").symlink_to(secret)
    replace_text(tmp_path / "b", "new")
    replace_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()


def test_a_slot_that_is_a_link_is_emptied_by_removing_the_link(tmp_path: Path, secret: Path) -> None:
    root = Root(tmp_path / "device")
    (tmp_path / "device" / "slots").mkdir(parents=True)
    root.slot("a").folder.symlink_to(secret.parent)
    root.slot("a").clear()
    assert root.slot("a").folder.is_dir() and not root.slot("a").folder.is_symlink()


def test_provisioning_runs_no_environment_of_another_user(taken: Path) -> None:
    machine = System(taken.parent)
    (taken.parent / "opt").mkdir()
    (taken.parent / "opt" / "edgesparse").symlink_to("/taken")
    with pytest.raises(StepFailed, match="/taken belongs to user 65534, needed root"):
        list(software.venv(machine))
