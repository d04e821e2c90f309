"""Provisioning, the account: device nodes, keys, settings, and who can read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_jetson import FakeJetson, failure, provision

from deploy.provision import steps


def test_inaccessible_nodes_get_a_rule(jetson: FakeJetson) -> None:
    for name, mode in {"nvmap": 0o600, "video0": 0o666, "nvgpu/igpu0/as": 0o660}.items():
        jetson.write(f"/dev/{name}", "", mode)
    (plan,) = (step.plan for step in steps.STEPS if step.name == "udev")
    (change,) = plan(jetson, steps.Options())
    change.make()
    rules = jetson.read("/etc/udev/rules.d/99-edgesparse.rules")
    assert 'ENV{DEVNAME}=="/dev/nvmap", GROUP="video", MODE="0660"' in rules
    assert "igpu0/as" in rules and "video0" not in rules
    assert list(plan(jetson, steps.Options())) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n", "is a private key"),
        ("ssh-ed25519 AAAA me", "is not a public key"),
    ],
)
def test_only_public_keys_are_installed(
    jetson: FakeJetson, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    (tmp_path / "a.pub").write_text(text)
    report = provision(jetson, capsys, "--key", tmp_path / "a.pub")
    assert failure(report)[0] == "keys" and why in failure(report)[1] and report["code"] == 2
    assert not jetson.path("/etc/edgesparse/trusted/a.pub").exists()


def test_existing_files_are_overwritten_only_with_force(
    jetson: FakeJetson, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("run:\n  source: rtsp://camera/1\n")
    jetson.write("/etc/edgesparse/device.yaml", "run:\n  source: 0\n")
    report = provision(jetson, capsys, "--key", key, "--settings", tmp_path / "mine.yaml")
    assert failure(report) == (
        "settings",
        "/etc/edgesparse/device.yaml exists and differs",
        "--force overwrites it",
    )
    assert report["code"] == 1 and "source: 0" in jetson.read("/etc/edgesparse/device.yaml")
    assert provision(jetson, capsys, "--key", key, "--settings", tmp_path / "mine.yaml", "--force")["ok"]
    assert "rtsp" in jetson.read("/etc/edgesparse/device.yaml")
    assert provision(jetson, capsys)["ok"]  # without --settings it is kept
    assert "rtsp" in jetson.read("/etc/edgesparse/device.yaml")


def mode(jetson: FakeJetson) -> int:
    return jetson.path("/etc/edgesparse/device.yaml").stat().st_mode & 0o777


def test_settings_are_readable_by_root_and_the_service_only(
    jetson: FakeJetson, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings contain camera passwords, whatever the mode of the original file."""
    assert provision(jetson, capsys)["ok"] and mode(jetson) == 0o640
    (tmp_path / "mine.yaml").write_text("run:\n  source: rtsp://user:secret@camera/1\n")
    (tmp_path / "mine.yaml").chmod(0o644)
    options = ("--settings", tmp_path / "mine.yaml", "--force")
    assert provision(jetson, capsys, *options)["ok"] and mode(jetson) == 0o640
    assert jetson.file_groups.count("edgesparse") == 2


def test_settings_of_an_earlier_release_are_protected(jetson: FakeJetson, capsys: pytest.CaptureFixture[str]) -> None:
    provision(jetson, capsys)
    path = jetson.path("/etc/edgesparse/device.yaml")
    path.chmod(0o644)
    report = provision(jetson, capsys)
    changes = {step["step"]: step["changes"] for step in report["steps"]}
    assert changes["settings"] == ["give /etc/edgesparse/device.yaml mode 640"] and mode(jetson) == 0o640
    path.chmod(0o600)
    assert not provision(jetson, capsys)["changed"] and mode(jetson) == 0o600
