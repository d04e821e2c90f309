"""A bundle is one file with reproducible bytes; any change to it is refused in one line and nothing is written."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import bundles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgesparse.config import Deploy, parse
from edgesparse.errors import ConfigError, DeployError, EdgeSparseError, SignatureError
from edgesparse.fleet import bundle, delta, keys
from edgesparse.fleet.bundle import BundleFile, BundleManifest, order
from edgesparse.fleet.fetch import LocalFile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, `good.esb` with version 2.0, and a device that runs 1.0."""
    folder = tmp_path_factory.mktemp("bundles")
    private = bundles.key(folder)
    bundles.device(folder / "device").deploy(bundles.opened(bundles.signed(folder / "old.esb", private, "1.0")))
    bundles.signed(folder / "good.esb", private, "2.0")
    return folder


def refused(path: Path, folder: Path, kind: type[EdgeSparseError] = SignatureError) -> str:
    """Deploy a bundle that is refused, check that the device is unchanged, and return the message."""
    before = bundles.tree(folder / "device")
    with pytest.raises(kind) as error:
        with LocalFile(path, keys.trusted(folder / "trusted")) as source:
            bundles.device(folder / "device").deploy(source)
    assert bundles.tree(folder / "device") == before
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(folder: Path, at: int, new: bytes) -> Path:
    data = bytearray((folder / "good.esb").read_bytes())
    data[at : at + len(new)] = new
    (folder / "changed.esb").write_bytes(data)
    return folder / "changed.esb"


def places(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def test_a_bundle_is_a_tar_file(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(["tar", "-xf", folder / "good.esb", "-C", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert sorted(bundles.tree(tmp_path)) == [
        "manifest.json", "manifest.sig", "model", "model/model.onnx", "nothing", "recipe.yaml",
    ]  # fmt: skip


@pytest.mark.openssl
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_verifies_the_signature(folder: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", folder / "good.esb", "-C", tmp_path], check=True)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-inkey", str(folder / "factory.pub")]
    command += ["-in", str(tmp_path / "manifest.json"), "-sigfile", str(tmp_path / "manifest.sig")]
    assert "Verified Successfully" in subprocess.run(command, capture_output=True, text=True).stdout


def test_the_same_contents_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = bundles.signed(tmp_path / "again.esb", folder / "factory.key", "2.0")
    for path in again.with_suffix(".contents").rglob("*"):
        os.utime(path, (1, 1))
    assert again.read_bytes() == (folder / "good.esb").read_bytes()


def test_each_part_of_a_bundle_is_protected(folder: Path) -> None:
    for name, member in places(folder / "good.esb").items():
        for at in {
            member.offset,
            member.offset + 124,
            member.offset_data,
            member.offset_data + max(member.size - 1, 0),
        }:
            byte = (folder / "good.esb").read_bytes()[at]
            message = refused(changed(folder, at, bytes([byte ^ 1])), folder)
            assert name in message or "tampered" in message or "not a bundle" in message, (name, at, message)


@settings(max_examples=150)
@given(st.data())
def test_no_byte_can_be_changed(folder: Path, data: st.DataObject) -> None:
    good = (folder / "good.esb").read_bytes()
    at, flip = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(1, 255))
    bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    trusted = keys.trusted(folder / "trusted")
    with pytest.raises(SignatureError):
        signed = delta.read(io.BytesIO(bad), trusted, "it")
        bundle.verify(io.BytesIO(bad), signed, "it")


@pytest.mark.parametrize("cut", [0, 1, 511, 700, 2000, -1, -1024, -1025])
def test_a_truncated_bundle_is_refused(folder: Path, cut: int) -> None:
    (folder / "part.esb").write_bytes((folder / "good.esb").read_bytes()[:cut])
    refused(folder / "part.esb", folder)


def test_extra_bytes_at_the_end_are_refused(folder: Path) -> None:
    (folder / "long.esb").write_bytes((folder / "good.esb").read_bytes() + b"\0")
    assert "its end is not what was signed" in refused(folder / "long.esb", folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a path with ..", {"name": "../../escaped"}),
        ("an absolute path", {"name": "/tmp/escaped"}),
        ("a link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("a hard link", {"type": tarfile.LNKTYPE, "linkname": "recipe.yaml"}),
        ("a device", {"type": tarfile.CHRTYPE}),
        ("a bomb", {"size": 8**11 - 1}),
        ("a program", {"mode": 0o4755}),
    ],
)
def test_a_header_that_was_not_signed_is_refused(folder: Path, name: str, change: dict[str, Any]) -> None:
    member = places(folder / "good.esb")["nothing"]
    for key, value in change.items():
        setattr(member, key, value)
    message = refused(changed(folder, member.offset, member.tobuf(tarfile.USTAR_FORMAT)), folder)
    assert "nothing is not what was signed" in message, name
    assert not Path("/tmp/escaped").exists()


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", "a//b", ".a", "a/.b", "", "a\0b", "ä", "a" * 101, "a\nb"])
def test_a_manifest_cannot_name_files_outside_the_bundle(name: str) -> None:
    with pytest.raises(ValidationError):
        BundleFile(name=name, size=0, sha256="0" * 64)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("manifest.json",)])
def test_names_of_files_must_differ(names: tuple[str, ...]) -> None:
    files = tuple(BundleFile(name=name, size=0, sha256="0" * 64) for name in names)
    with pytest.raises(ValidationError):
        BundleManifest(name="m", version="1", time=0, key="", files=files)


def test_a_manifest_that_is_too_long_is_not_read(folder: Path) -> None:
    (folder / "changed.esb").write_bytes(bundle._header("manifest.json", bundle.MOST_MANIFEST + 1) + bytes(10_000))
    assert "is not a bundle" in refused(folder / "changed.esb", folder)


def test_a_file_that_changes_after_verification_is_detected_during_unpacking(folder: Path, tmp_path: Path) -> None:
    trusted, good = keys.trusted(folder / "trusted"), (folder / "good.esb").read_bytes()
    signed = delta.read(io.BytesIO(good), trusted, "it")
    assert isinstance(signed, bundle.Head)
    with pytest.raises(SignatureError, match=r"model/model\.onnx is not what was signed"):
        bundle.unpack(io.BytesIO(good.replace(b"xxxx", b"yyyy")), signed, tmp_path, "it")


def test_another_key_is_refused(folder: Path, tmp_path: Path) -> None:
    foreign = bundles.signed(tmp_path / "foreign.esb", bundles.key(tmp_path, "stranger"), "3.0")
    assert "not signed by a key that this device trusts" in refused(foreign, folder)


def test_an_expired_key_is_refused(folder: Path, tmp_path: Path) -> None:
    private = bundles.key(tmp_path, "short", days=3)
    path = bundles.signed(tmp_path / "late.esb", private, "3.0", time=bundles.TIME + 900 * 86400)
    shutil.copytree(folder / "device", tmp_path / "device", symlinks=True)
    message = refused(path, tmp_path)
    assert "short (" in message and "expired on" in message and "sign it with its successor" in message


def test_an_older_version_is_refused_unless_allowed(folder: Path, tmp_path: Path) -> None:
    for version in ("1.0", "0.9", "1.0.0", "0.10"):
        path = bundles.signed(tmp_path / f"v{version}.esb", folder / "factory.key", version, filler=2000)
        assert "needed one newer than 1.0" in refused(path, folder, DeployError)
    shutil.copytree(folder / "device", tmp_path / "device", symlinks=True)
    with LocalFile(path, keys.trusted(folder / "trusted")) as source:
        assert bundles.device(tmp_path / "device").deploy(source, downgrade=True).version == "0.10"
    assert bundles.serving(tmp_path / "device") == "0.10"


def test_versions_are_compared_as_numbers() -> None:
    assert order("1.10") > order("1.9") and order("1.0") == order("1") and order("2026.11.25.093000") > order("2026.2")


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"edgesparse": "99.0"}, "found edgesparse .*, needed 99.0 or newer: update edgesparse"),
        ({"l4t": "36.4"}, "found l4t none, needed 36.4"),
        ({"onnxruntime": "99"}, "found onnxruntime .*, needed 99"),
    ],
)
def test_minimum_versions_are_checked(folder: Path, tmp_path: Path, needs: Any, message: str) -> None:
    path = bundles.signed(tmp_path / "needs.esb", folder / "factory.key", "3.0", deploy=Deploy(needs=needs))
    refusal = refused(path, folder, EdgeSparseError)
    assert re.search(message, refusal), refusal


@pytest.mark.parametrize("needs", [{"warp-drive": "1"}, {"tensorrt": "ten"}, {"tensorrt": ""}, {"tensorrt": 10.3}])
def test_an_invalid_minimum_version_is_refused(needs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"deploy\.needs"):
        parse({"model": "m.onnx", "deploy": {"needs": needs}}, "recipe")


def test_a_file_that_changes_while_it_is_bundled_is_detected(folder: Path, tmp_path: Path) -> None:
    private = keys.read_private(folder / "factory.key")
    (tmp_path / "a").write_bytes(b"abc")
    listed = (BundleFile(name="a", size=3, sha256="0" * 64),)
    manifest = BundleManifest(name="m", version="1", time=0, key="", files=listed)
    with pytest.raises(ConfigError, match="changed while it was read"):
        bundle.write(io.BytesIO(), manifest, private, {"a": tmp_path / "a"})
