"""Provisioning, pulling: what polls a repository is installed, kept up to date, and removed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from fake_jetson import ROOT, FakeJetson, failure, provision

from deploy.provision.pulling import pull
from deploy.provision.system import StepFailed
from edgesparse.errors import ConfigError
from edgesparse.service.install import Installation, Pull

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


ROOT_TEXT = '{"signed": {"_type": "root"}}'
INPUTS = [  # pull.env, the root, and whether a device can poll with them; None: no such file
    (URL, ROOT_TEXT, True),
    ("EDGESPARSE_REPORT=/mnt\n# a comment\nEDGESPARSE_PULL='https://example.org/fleet'\n", ROOT_TEXT, True),
    ('EDGESPARSE_PULL="https://example.org"', ROOT_TEXT, True),
    ("EDGESPARSE_PULL=http://example.org/fleet\n", ROOT_TEXT, False),
    ("# EDGESPARSE_PULL=https://example.org/fleet\n", ROOT_TEXT, False),
    (" EDGESPARSE_PULL = https://example.org/fleet\n", ROOT_TEXT, False),
    ("", ROOT_TEXT, False),
    (b"EDGESPARSE_PULL=https://example.org\n\xff", ROOT_TEXT, False),
    (None, ROOT_TEXT, False),
    (URL, '{"signed": {"_type": "targets"}}', False),
    *((URL, root, False) for root in ("", "[]", "null", '"root"', '{"signed": []}', "[" * 100_000, b"\xff", None)),
]


@pytest.mark.parametrize(("environment", "anchor", "accepted"), INPUTS)
def test_service_install_accepts_what_provisioning_does(
    jetson: FakeJetson,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | bytes | None,
    anchor: str | bytes | None,
    accepted: bool,
) -> None:
    """Provisioning runs before edgesparse is installed, so both check these files."""
    (tmp_path / "edgesparse").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    files = tmp_path / "pull.env", tmp_path / "1.root.json"
    for file, content in zip(files, (environment, anchor), strict=True):
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
    installation = Installation("/var/lib/edgesparse/current/package", "demo", tmp_path / "image", pull=Pull(*files))
    checks: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: list(pull(jetson, *files, False)), StepFailed),
        (lambda: list(installation._pull()), ConfigError),
    ]
    for check, refusal in checks:
        with nullcontext() if accepted else pytest.raises(refusal):
            check()


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
