"""Ansible's playbooks against four virtual machines, one of which loses its power on the way. Marker `vm`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from make_image import CACHE, Image
from payload import make_bundle
from playing import play, recap
from provisioned import Provisioned
from qemu import Disks, Machine
from vm_fleet import NAMES, Fleet, small_wheelhouse

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]

CUT = "board3"
INSTALLED = "/opt/edgesparse/lib/python3.11/site-packages/edgesparse"
JOURNAL = "/var/lib/edgesparse/deploy.json"
HEALTH_SECONDS = 180
"""Four services that start at the same time by emulation take longer than a board's."""

MakeFleet = Callable[[Path], Fleet]
"""Starts four machines on overlays of a disk."""


@pytest.fixture
def fleet(image: Image, host: Path, tmp_path: Path) -> Iterator[MakeFleet]:
    fleets: list[Fleet] = []

    def make(base: Path) -> Fleet:
        def machine(port: int) -> Machine:
            return Machine(image, Disks(base, host), tmp_path / f"vm-{port}", options="net.ifnames=0", port=port)

        fleets.append(Fleet(tmp_path, machine))
        fleets[0].start()
        return fleets[0]

    yield make
    for machine in (machine for each in fleets for machine in each.machines.values()):
        machine.close()


def run(fleet: Fleet, book: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    return play(fleet.inventory, book, edgesparse_health_seconds=HEALTH_SECONDS, edgesparse_poll=10, **variables)


def run_and_cut(fleet: Fleet, moment: str, book: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook, and cut the power of a machine once that command succeeds in it."""
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(run, fleet, book, **variables)
        fleet.machines[CUT].until(moment, 1800)
        fleet.machines[CUT].power_cut()
        return playing.result()


def changed(done: subprocess.CompletedProcess[str]) -> dict[str, bool]:
    assert done.returncode == 0, done.stdout + done.stderr
    return {host: bool(counts["changed"]) for host, counts in recap(done).items()}


def devices(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """Return the state and the version of each device, as the playbook shows them."""
    done = run(fleet, "status")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((fleet.folder / "fleet.json").read_text())["devices"]
    return {row["host"]: (row["state"], row["version"]) for row in rows}


def test_bare_roots_are_provisioned_though_one_loses_its_power(
    image: Image, wheelhouse: Path, fleet: MakeFleet, tmp_path: Path
) -> None:
    """While pip installs edgesparse. The next run provisions that one again and changes nothing on the others."""
    boards = fleet(image.disk)
    options = {"wheelhouse": str(small_wheelhouse(wheelhouse, tmp_path / "wheelhouse")), "max_fail": 50}
    options.update(key=str(CACHE / "fleet.pub"), provision_options=["--any-machine"])
    first = run_and_cut(boards, f"test -d {INSTALLED}", "provision", **options)
    assert first.returncode != 0 and recap(first)[CUT]["unreachable"] == 1, first.stdout + first.stderr
    boards.start(CUT)
    assert changed(run(boards, "provision", **options)) == {name: name == CUT for name in NAMES}
    for machine in boards.machines.values():
        assert machine.check("systemctl is-enabled edgesparse").strip() == "enabled"
        assert machine.check("cd /opt/edgesparse && bin/edgesparse --version")


def test_a_rollout_ends_though_one_board_loses_its_power(
    provisioned: Provisioned, fleet: MakeFleet, tmp_path: Path
) -> None:
    """In the middle of its deploy. The next run brings it to the same version, and all roll back by hand."""
    boards, bundle = fleet(provisioned.disk), tmp_path / "1.1.esb"
    make_bundle(tmp_path / "contents", bundle, "1.1")
    assert devices(boards) == dict.fromkeys(NAMES, ("healthy", "1.0"))
    options = {"bundle": str(bundle), "batches": ["100%"], "max_fail": 70}
    first = run_and_cut(boards, f"test -e {JOURNAL}", "rollout", **options)
    assert first.returncode == 2 and recap(first)[CUT]["failed"], first.stdout + first.stderr
    boards.start(CUT)
    assert changed(run(boards, "rollout", **options)) == {name: name == CUT for name in NAMES}
    assert devices(boards) == dict.fromkeys(NAMES, ("healthy", "1.1"))
    assert all(changed(run(boards, "rollback")).values())
    assert devices(boards) == dict.fromkeys(NAMES, ("healthy", "1.0"))
