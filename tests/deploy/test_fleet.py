"""Real ansible-playbook on four hosts on this machine, over SSH. Marker `fleet`.

Last run: 2026-11-29 on Debian 12, Ansible 2.19.14, OpenSSH 9.2: 7 passed in 37 minutes, on two busy cores. Not in CI:
most of it is health windows of 45 s, in which nothing but the services works. Real: Ansible, OpenSSH in network
namespaces, playbooks, bundles, `edgesparse deploy` with build and self-test, and the service (ONNX Runtime, the demo
scene). Replaced: systemd.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import pytest
from playing import play, recap

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(1800)]


class Fleet:
    """Hosts, a key that they trust, and bundles with increasing versions."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.version = folder, 0
        self.hosts = hosts.Hosts(folder)
        self.edgesparse("keys", "new", "fleet")
        self.edgesparse("demo", "export", "images", "--count", "2")
        for host in self.hosts.hosts:
            trusted = host.file("/etc/edgesparse/trusted")
            trusted.mkdir()
            (trusted / "fleet.pub").write_text((folder / "fleet.pub").read_text())

    def edgesparse(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "edgesparse", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def bundle(self, **limits: float) -> tuple[Path, str]:
        """Create the next version of the default detector; `limits` are the recipe's `deploy:`."""
        self.version += 1
        name = f"parts-{self.version}"
        recipe: dict[str, Any] = {"model": str(ROOT / "edgesparse" / "demo" / "parts_2to4.onnx"), "deploy": limits}
        recipe["build"] = {"backend": "onnxruntime"}
        (self.folder / f"{name}.yaml").write_text(json.dumps(recipe))
        version = f"1.{self.version}"
        options = ("--key", "fleet.key", "--images", "images/images", "--version", version)
        self.edgesparse("bundle", f"{name}.yaml", "-o", f"{name}.esb", *options)
        return self.folder / f"{name}.esb", version

    def play(self, book: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        defaults = {"edgesparse_health_seconds": 45, "edgesparse_poll": 5}
        return play(self.folder / "inventory.yml", book, **{**defaults, **variables})

    def versions(self) -> list[str]:
        return [status(host)["running"]["version"] for host in self.hosts.hosts]

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the page, by host."""
        done = self.play("status")
        assert done.returncode in (0, 4), done.stdout
        rows = json.loads((self.folder / "fleet.json").read_text())["devices"]
        return {row["host"]: row for row in rows}


def status(host: hosts.Host) -> dict[str, Any]:
    """Return the status of edgesparse on a host, without SSH."""
    command = [sys.executable, "-m", "edgesparse", "status", "--json", "--root", str(host.file("/var/lib/edgesparse"))]
    done = subprocess.run(
        [*command, "--status", str(host.file("/run/edgesparse/status.json"))],
        capture_output=True,
        text=True,
        check=False,
    )
    values: dict[str, Any] = json.loads(done.stdout)
    return values


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if why := hosts.possible():
        pytest.skip(why)
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        first, _ = fleet.bundle()
        done = fleet.play("rollout", bundle=str(first), batches=["100%"])
        assert done.returncode == 0, done.stdout + done.stderr
        yield fleet
    finally:
        fleet.hosts.close()


def test_a_good_bundle_is_deployed_in_batches_and_once(fleet: Fleet) -> None:
    bundle, version = fleet.bundle()
    done = fleet.play("rollout", bundle=str(bundle), batches=[1, "100%"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.versions() == [version] * 4
    assert re.search(r"ok: \[esf1\] => \(item=watching the service \d+/45, \d+ s left\)", done.stdout), done.stdout
    canary, second, *rest = (status(host)["running"]["committed"] for host in fleet.hosts.hosts)
    assert canary < second < min(rest)
    again = fleet.play("rollout", bundle=str(bundle), batches=[1, "100%"])
    assert again.returncode == 0 and [counts["changed"] for counts in recap(again).values()] == [0] * 4


def test_a_bad_bundle_is_stopped_at_the_canary(fleet: Fleet) -> None:
    """Its detector works, but is too slow for its own limit, which only the health window detects."""
    before = fleet.versions()
    pids = [status(host)["service"]["pid"] for host in fleet.hosts.hosts]
    bundle, _ = fleet.bundle(max_age_ms=1)
    done = fleet.play("rollout", bundle=str(bundle))
    assert done.returncode == 2 and "deploy.max_age_ms 1" in done.stdout, done.stdout + done.stderr
    assert set(recap(done)) == {"esf1"} and fleet.versions() == before
    assert [status(host)["service"]["pid"] for host in fleet.hosts.hosts[1:]] == pids[1:]
    devices = fleet.devices()
    assert devices["esf1"]["last"] == "rolled back" and "max_age_ms" in devices["esf1"]["why"]
    assert {row["state"] for row in devices.values()} == {"healthy"}


def test_a_batch_with_too_many_failures_is_rolled_back(fleet: Fleet) -> None:
    before = fleet.versions()
    bundle, version = fleet.bundle()
    fleet.hosts.hosts[3].camera("rtsp://127.0.0.1:1/gone")
    done = fleet.play("rollout", bundle=str(bundle), batches=["100%"], max_fail=20)
    fleet.hosts.hosts[3].camera("demo")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "rolled back with its batch: esf4 failed" in done.stdout and "camera camera is" in done.stdout
    assert fleet.versions() == [version, *before[1:]]  # the canary was healthy and is kept
    assert fleet.play("rollout", bundle=str(bundle), batches=["100%"]).returncode == 0
    assert fleet.versions() == [version] * 4


def test_a_few_failures_do_not_stop_the_rollout(fleet: Fleet) -> None:
    """One host is away from the start, one dies during its deploy; the others continue, and both catch up later."""
    away, dying = fleet.hosts.hosts[1], fleet.hosts.hosts[2]
    bundle, version = fleet.bundle()
    before = fleet.versions()
    away.unplug()
    dying.file("/etc/edgesparse/die").touch()
    done = fleet.play("rollout", bundle=str(bundle), batches=["100%"], max_fail=70)
    versions = fleet.versions()
    assert done.returncode == 2, done.stdout + done.stderr
    assert versions[0] == versions[3] == version and versions[1] == before[1]
    devices = fleet.devices()
    assert devices["esf2"]["state"] == devices["esf3"]["state"] == "no answer"
    away.unplug(out=False)
    dying.start()
    again = fleet.play("rollout", bundle=str(bundle), batches=["100%"])
    assert again.returncode == 0, again.stdout + again.stderr
    assert fleet.versions() == [version] * 4
    changed = {host: bool(counts["changed"]) for host, counts in recap(again).items()}
    assert changed == {"esf1": False, "esf2": True, "esf3": True, "esf4": False}
    assert {row["state"] for row in fleet.devices().values()} == {"healthy"}


def test_a_rollback_by_hand(fleet: Fleet) -> None:
    bundle, version = fleet.bundle()
    before = fleet.versions()
    assert fleet.play("rollout", bundle=str(bundle), batches=["100%"]).returncode == 0
    assert fleet.versions() == [version] * 4
    assert fleet.play("rollback").returncode == 0
    assert fleet.versions() == before


def test_the_page_and_the_table(fleet: Fleet) -> None:
    done = fleet.play("status")
    assert "4 of 4 healthy" in done.stdout
    page = (fleet.folder / "fleet.html").read_text()
    assert page.count("<tr>") == 5 and "esf1" in page and "north" in page and 'class="state healthy"' in page
    row = json.loads((fleet.folder / "fleet.json").read_text())["devices"][0]
    assert row["site"] == "north" and row["live"] == row["cameras"] == 1 and row["address"] == "10.213.0.11"


def test_provisioning_reports_what_each_host_lacks(fleet: Fleet, tmp_path: Path) -> None:
    """Only with --check, since all hosts are this machine; and the wheelhouse is not one."""
    for name in ("scripts/provision", "deploy/provision"):
        (tmp_path / name).parent.mkdir()
        subprocess.run(["cp", "-r", ROOT / name, tmp_path / name], check=True)
    variables = {"wheelhouse": str(tmp_path), "key": str(fleet.folder / "fleet.pub")}
    done = fleet.play("provision", **variables, provision_options=["--check", "--any-machine"])
    assert done.returncode == 2 and done.stdout.count("was not written by scripts/wheelhouse") >= 4, done.stdout
    refused = fleet.play("provision", **variables, provision_options=["--check"])
    assert refused.returncode == 2 and refused.stdout.count('"msg": "board: not a Jetson') == 4
