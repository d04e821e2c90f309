"""The verbs of `fleet`: from keys to a device that pulls, reports, and is in the table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import bundles
import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
sys.path.append(str(Path(__file__).parents[1] / "service"))
import https
from broker import MOSQUITTO, Broker

from edgesparse.cli import verbs
from edgesparse.cli.device import DeviceOptions
from edgesparse.fleet import reports
from edgesparse.progress import quiet


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[https.Site]:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(DeviceOptions, "device", lambda self, advance: bundles.device(self.root, progress=advance))
    monkeypatch.chdir(tmp_path)
    bundles.key(tmp_path)
    bundles.signed(tmp_path / "model.esb", tmp_path / "factory.key", "1.0")
    with https.serving(tmp_path) as site:
        site.files = lambda path: stored(tmp_path / path.lstrip("/").partition("?")[0])
        yield site


def stored(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def call(*words: str) -> Result:
    return CliRunner().invoke(verbs, words, catch_exceptions=True)


def done(*words: str) -> Result:
    result = call(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def initialize() -> None:
    for name in ("root", "release", "online"):
        done("keys", "new", name)
    done(
        "fleet", "init", "fleet", "--root-key", "root.key", "--release-key", "release.key", "--online-key", "online.key"
    )


SIGNED = ("--key", "release.key", "--key", "online.key")
HERE = ("--root", "device", "--trusted", "trusted", "--restart", "", "--name", "esf1")


def publish(*words: str) -> Result:
    return done("fleet", "publish", "fleet", "model.esb", "--trusted", "trusted", *words)


def pull(site: https.Site, *words: str) -> Result:
    url = site.url.replace("model.esb", "fleet") + "?token=secret"
    return call("fleet", "pull", url, *HERE, "--anchor", "fleet/metadata/1.root.json", *words)


def test_from_keys_to_the_table(site: https.Site, tmp_path: Path) -> None:
    initialize()
    assert (
        "waits in fleet/staged for 1 release key (of release)"
        in publish("--share", "100", "--key", "online.key").stderr
    )
    assert "published a new timestamp" in done("fleet", "sign", "fleet", *SIGNED).stderr
    first = pull(site, "--report", "reports", "--json")
    assert json.loads(first.stdout)["result"] == "deployed"
    assert all("?token=secret" in path for path in site.requested)
    assert "for this device" not in pull(site, "--report", "reports").stderr
    done("fleet", "stop", "fleet", "1.0", "--why", "it blinks", *SIGNED)
    assert pull(site, "--report", site.url.replace("model.esb", "put?token=secret")).exit_code == 0
    assert list(site.stored) == ["/put/esf1.json?token=secret"]
    assert b"secret" not in b"".join(site.stored.values())
    table = done("fleet", "status", "reports", "--html", "fleet.html").stdout
    assert "1 no service, 1 1.0" in table and "esf1" in table
    assert "esf1" in (tmp_path / "fleet.html").read_text()
    assert "already exists" in str(call("fleet", "status", "reports", "--html", "fleet.html").exception)
    listed = json.loads(done("fleet", "status", "reports", "--json").stdout)
    assert listed["devices"][0]["version"] == "1.0"


@pytest.mark.mosquitto
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto")
def test_a_poll_is_reported_to_a_broker(site: https.Site, tmp_path: Path) -> None:
    initialize()
    publish("--share", "100", *SIGNED)
    broker = Broker(tmp_path)
    address = f"mqtt://127.0.0.1:{broker.port}/fleet"
    result = pull(site, "--report", address)
    listed = json.loads(done("fleet", "status", address, "--json").stdout)
    broker.off()
    assert result.exit_code == 0, result.stderr
    assert [(row["device"], row["version"]) for row in listed["devices"]] == [("esf1", "1.0")]


def test_a_poll_that_fails_is_reported_in_one_line(site: https.Site, tmp_path: Path) -> None:
    initialize()
    publish("--share", "100", *SIGNED)
    site.files = lambda path: None
    result = pull(site, "--report", "reports")
    assert result.exit_code == 1 and "secret" not in str(result.exception)
    assert "the server answers 404" in str(result.exception)
    row = reports.read(str(tmp_path / "reports"), quiet)[0]
    assert (row.state, row.report and row.report.result) == ("no engine", "failed")


def test_keys_are_rotated(site: https.Site) -> None:
    initialize()
    publish("--share", "100", *SIGNED)
    done("keys", "new", "online-2")
    rotated = done("fleet", "rotate", "fleet", "--online-key", "online-2.key", "--key", "root.key")
    assert "published the new root in fleet" in rotated.stderr
    assert pull(site).exit_code == 0


def test_wrong_use_is_refused(site: https.Site, tmp_path: Path) -> None:
    assert call("fleet", "init", "fleet", "--root-key", "factory.key").exit_code == 2
    initialize()
    assert call("fleet", "init", "fleet", "--root-key", "root.key").exit_code == 2
    assert call("fleet", "publish", "fleet", "model.esb", "--share", "101").exit_code == 2
    assert "has no version 9.9" in str(call("fleet", "stop", "fleet", "9.9", *SIGNED).exception)
    assert "is not a repository" in str(call("fleet", "sign", "nothing").exception)
    assert "needed NAME.pub or NAME.key" in str(call("fleet", "rotate", "fleet", "--root-key", "model.esb").exception)
    assert "needed an https:// address" in str(call("fleet", "pull", "http://x/", *HERE).exception)
    ended = call("fleet", "pull", "https://localhost:1/", *HERE, "--anchor", "model.esb")
    assert "model.esb is not a root: copy the repository's metadata/1.root.json" in str(ended.exception)
    assert "is not a folder of reports" in str(call("fleet", "status", "nowhere").exception)
    (tmp_path / "empty").mkdir()
    assert "no device has reported to empty yet" in call("fleet", "status", "empty").stderr


def test_reports_are_bounded_and_what_is_wrong_with_them_is_shown(tmp_path: Path) -> None:
    for name, text in (("a", "{"), ("b", "x" * 100_000), ("c", '{"device": "d", "time": 1, "result": "x"}')):
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "e.json").symlink_to("/dev/zero")
    rows = reports.read(str(tmp_path), quiet)
    assert [row.state for row in rows] == ["bad report"] * 4
    evil = "<script>alert(1)</script>"
    report = reports.Report(device="f", time=1, result=evil, why=evil, version="1", healthy=True)
    reports.send(report, str(tmp_path))
    page = reports.page(reports.read(str(tmp_path), quiet))
    assert evil not in page and "1 of 5 healthy" in page
