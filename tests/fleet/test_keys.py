"""Keys: created, read, expired, rotated; a device trusts one folder that only root and the current user can change."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bundles
import pytest

from edgesparse.errors import ConfigError, SignatureError
from edgesparse.fleet import keys
from edgesparse.fleet.fetch import LocalFile

TODAY = datetime(2026, 3, 31, 12, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def day(monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys count from a fixed day: a run may last past midnight."""
    monkeypatch.setattr(keys, "_today", TODAY.date)


def test_a_new_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    key = keys.new(tmp_path / "factory", 10)
    assert stat.S_IMODE((tmp_path / "factory.key").stat().st_mode) == 0o600
    assert keys.read_private(tmp_path / "factory.key").public == key == keys.read_public(tmp_path / "factory.pub")
    assert key.name == "factory" and key.expires == TODAY.date() + timedelta(10)
    with pytest.raises(ConfigError, match=r"factory\.key exists: keys are never overwritten"):
        keys.new(tmp_path / "factory", None)
    (tmp_path / "factory.key").unlink()
    with pytest.raises(ConfigError, match=r"factory\.pub exists"):
        keys.new(tmp_path / "factory", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["factory.pub"]


@pytest.mark.parametrize("name", [".hidden", "a b", "ä"])
def test_an_unsupported_key_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="found the key name"):
        keys.new(tmp_path / name, None)


@pytest.mark.openssl
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_reads_both_halves_and_its_own_keys_are_read(tmp_path: Path) -> None:
    keys.new(tmp_path / "ours", 5)
    for arguments in (["-in", "ours.key"], ["-pubin", "-in", "ours.pub"]):
        subprocess.run(["openssl", "pkey", *arguments, "-noout"], cwd=tmp_path, check=True)
    for command in ("genpkey -algorithm ed25519 -out theirs.key", "pkey -in theirs.key -pubout -out theirs.pub"):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True)
    (tmp_path / "theirs.key").chmod(0o600)
    private = keys.read_private(tmp_path / "theirs.key")
    assert private.public == keys.read_public(tmp_path / "theirs.pub")
    assert private.public.name == "theirs" and private.public.expires is None
    subprocess.run(["openssl", "genrsa", "-out", "rsa.key", "2048"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "rsa.key").chmod(0o600)
    with pytest.raises(SignatureError, match="is not a private Ed25519 key"):
        keys.read_private(tmp_path / "rsa.key")


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.new(tmp_path / "factory", None)
    (tmp_path / "factory.key").chmod(0o640)
    with pytest.raises(SignatureError, match=r"found mode 640, needed 600: run 'chmod 600"):
        keys.read_private(tmp_path / "factory.key")
    with pytest.raises(SignatureError, match=r"factory.pub is not a private Ed25519 key: name .*factory.key"):
        keys.read_private(tmp_path / "factory.pub")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\xff\x00"])
def test_a_file_that_is_no_key_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pub"
    path.write_bytes(content)
    with pytest.raises(SignatureError, match="is not a public Ed25519 key"):
        keys.read_public(path)
    path.chmod(0o600)
    with pytest.raises(SignatureError, match="is not a private Ed25519 key"):
        keys.read_private(path)
    with pytest.raises(SignatureError, match="cannot read the key"):
        keys.read_public(tmp_path / "none.pub")


def test_an_invalid_date_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "factory.pub"
    path.write_text(keys.new(tmp_path / "other", 5).text().replace("expires: ", "expires: next"))
    with pytest.raises(SignatureError, match="needed a day such as 2027-12-31, or never"):
        keys.read_public(path)


def test_a_key_is_valid_to_the_end_of_its_last_day(tmp_path: Path) -> None:
    key = keys.new(tmp_path / "factory", 0)
    assert key.expires is not None
    assert not key.expired(datetime(key.expires.year, key.expires.month, key.expires.day, 23, 59, tzinfo=timezone.utc))
    assert key.expired(TODAY + timedelta(1))


def test_an_expired_key_signs_nothing(tmp_path: Path) -> None:
    keys.new(tmp_path / "factory", 5)
    path = tmp_path / "factory.key"
    path.write_text(path.read_text().replace(str(TODAY.date() + timedelta(5)), "2020-01-01"))
    with pytest.raises(SignatureError, match="expired on 2020-01-01: sign with its successor"):
        keys.read_private(path).sign(b"")


def test_only_the_owner_can_add_trusted_keys(tmp_path: Path) -> None:
    bundles.key(tmp_path)
    folder = tmp_path / "trusted"
    for path in (folder, folder / "factory.pub"):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        with pytest.raises(SignatureError, match="which lets others add keys: run 'chmod go-w"):
            keys.trusted(folder)
        path.chmod(mode)
    (folder / "factory.pub").unlink()
    with pytest.raises(SignatureError, match="no trusted key in"):
        keys.trusted(folder)


def test_a_rotation_that_cannot_write_creates_no_key(tmp_path: Path) -> None:
    keys.new(tmp_path / "old", None)
    with pytest.raises(ConfigError, match=r"cannot create .*: Not a directory"):
        keys.rotate(tmp_path / "old.key", tmp_path / "next", None, 30, tmp_path / "old.pub" / "public")
    with pytest.raises(ConfigError, match="exists: keys are never overwritten"):
        keys.rotate(tmp_path / "old.key", tmp_path / "old", None, 30, tmp_path / "public")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.key", "old.pub"]


def test_during_a_rotation_both_keys_are_valid_then_only_the_new_one(tmp_path: Path) -> None:
    old = bundles.key(tmp_path, "y2026")
    before, after = keys.rotate(old, tmp_path / "y2027", 700, 30, tmp_path / "next")
    assert before.expires == TODAY.date() + timedelta(30) and after.expires == TODAY.date() + timedelta(700)
    trusted = keys.trusted(tmp_path / "next")
    assert [key.name for key in trusted] == ["y2026", "y2027"] and trusted == [before, after]
    for name in ("y2026", "y2027"):
        path = bundles.signed(tmp_path / f"{name}.esb", tmp_path / f"{name}.key")
        with LocalFile(path, trusted) as source:
            assert source.head.key.name == name
    assert before.expired(TODAY + timedelta(31)) and not after.expired(TODAY + timedelta(31))
    with pytest.raises(ConfigError, match="is not empty"):
        keys.rotate(old, tmp_path / "y2028", None, 30, tmp_path / "next")
    assert not (tmp_path / "y2028.key").exists()


@pytest.mark.root
def test_trusted_keys_of_another_user_are_refused(tmp_path: Path) -> None:
    """Whoever owns a file can change it, whatever its mode."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    bundles.key(tmp_path)
    folder = tmp_path / "trusted"
    for path in (folder, folder / "factory.pub"):
        os.chown(path, 65534, 65534)
        with pytest.raises(SignatureError, match=rf"{path}: owned by user 65534, needed root: run 'chown"):
            keys.trusted(folder)
        os.chown(path, 0, 0)
    assert [key.name for key in keys.trusted(folder)] == ["factory"]
