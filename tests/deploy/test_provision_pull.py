"""Provisioning, pulling: what polls a repository is installed, kept up to date, and removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_jetson import ROOT, FakeJetson, failure, provision

ENVIRONMENT, ANCHOR = "/etc/edgesparse/pull.env", "/etc/edgesparse/root.json"
UNITS = ("edgesparse-pull.service", "edgesparse-pull.timer")
URL = "EDGESPARSE_PULL=https://user:hunter2@example.org/fleet\n"


@pytest.fixture
def options(tmp_path: Path) -> tuple[str | Path, ...]:
    (tmp_path / "pull.env").write_text(URL)
    (tmp_path / "1.root.json").write_text('{"signed": {"_type": "root"}}')
    return ("--pull", tmp_path / "pull.env", "--anchor", tmp_path / "1.root.json")


def mode(jetson: FakeJetson, name: str) -> int:
    return jetson.path(name).stat().st_mode & 0o777


def changes(report: dict[str, object]) -> list[str]:
    (step,) = (step for step in report["steps"] if step["step"] == "pull")  # type: ignore[attr-defined]
    return list(step["changes"])


def test_what_polls_is_installed_once_and_removed(
    jetson: FakeJetson, options: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    provision(jetson, capsys)
    before = jetson.tree()
    check = provision(jetson, capsys, "--check", *options)
    assert jetson.tree() == before and len(changes(check)) == 4
    run = provision(jetson, capsys, *options)
    assert run["ok"] and changes(run) == changes(check) and "hunter2" not in str(run)
    assert jetson.read(ENVIRONMENT) == URL and mode(jetson, ENVIRONMENT) == 0o600
    assert mode(jetson, ANCHOR) == 0o644
    for name in UNITS:
        assert jetson.read(f"/etc/systemd/system/{name}") == (ROOT / "deploy" / name).read_text()
        assert mode(jetson, f"/etc/systemd/system/{name}") == 0o644
    assert jetson.path("/etc/systemd/system/timers.target.wants/edgesparse-pull.timer").is_symlink()
    assert not provision(jetson, capsys, *options)["changed"] and not provision(jetson, capsys)["changed"]
    assert len(changes(provision(jetson, capsys, "--check", "--no-pull"))) == 2
    assert provision(jetson, capsys, "--no-pull")["ok"] and jetson.tree() == before
    assert not provision(jetson, capsys, "--no-pull")["changed"]


def test_units_of_an_earlier_release_are_replaced_and_secrets_protected(
    jetson: FakeJetson, options: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    jetson.path("/run/systemd/system").mkdir(parents=True)
    provision(jetson, capsys, *options)
    assert "systemctl enable --now edgesparse-pull.timer" in jetson.ran
    jetson.path(ENVIRONMENT).chmod(0o644)
    jetson.write("/etc/systemd/system/edgesparse-pull.timer", "[Timer]\n")
    again = provision(jetson, capsys)
    assert changes(again) == [f"give {ENVIRONMENT} mode 600", "write edgesparse-pull.timer"]
    assert mode(jetson, ENVIRONMENT) == 0o600 and "systemctl daemon-reload" in jetson.ran


def test_what_could_not_poll_is_refused(
    jetson: FakeJetson, options: tuple[str | Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, why in (
        (options[:2], f"found no {ANCHOR}"),
        (options[2:], f"found no {ENVIRONMENT}"),
        (("--pull", tmp_path / "1.root.json"), "has no line EDGESPARSE_PULL=https://..."),
        (("--pull", options[1], "--anchor", tmp_path / "pull.env"), "is no root of a repository"),
    ):
        report = provision(jetson, capsys, *more)
        assert failure(report)[0] == "pull" and why in failure(report)[1] and report["code"] == 2
        assert not jetson.path(ENVIRONMENT).exists() and not jetson.path(ANCHOR).exists()
    assert provision(jetson, capsys, *options)["ok"]
    (tmp_path / "other.env").write_text(URL.replace("fleet", "other"))
    refused = provision(jetson, capsys, "--pull", tmp_path / "other.env")
    assert failure(refused)[1:] == (f"{ENVIRONMENT} exists and differs", "--force overwrites it")
    assert provision(jetson, capsys, "--pull", tmp_path / "other.env", "--force")["ok"]
