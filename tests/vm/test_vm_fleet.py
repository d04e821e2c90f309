"""Ansible's playbooks against virtual machines, one of which loses its power on the way. Marker `vm`."""

from __future__ import annotations

import json
import subprocess
import time
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

CUT = NAMES[-1]
INSTALLED = "/opt/edgesparse/lib/python3.11/site-packages/edgesparse"
JOURNAL = "/var/lib/edgesparse/deploy.json"
HEALTH = {"edgesparse_health_seconds": 120, "edgesparse_poll": 30}
"""Services that start at the same time by emulation take longer than a board's, and so does asking for progress."""
SLOWER = "sed -i 's/fps: 5/fps: 1/' /etc/edgesparse/device.yaml && systemctl restart --no-block edgesparse"
"""They share this machine's cores."""

MakeFleet = Callable[[Path], Fleet]
"""Starts machines on overlays of a disk."""


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
    for each in fleets:
        each.close()


def run(fleet: Fleet, book: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    return play(fleet.inventory, book, **variables)


def run_and_cut(fleet: Fleet, moment: str, book: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook, and cut the power of a machine once that command succeeds in it."""
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(run, fleet, book, **variables)
        while fleet.machines[CUT].run(moment).code:
            assert not playing.done(), playing.result().stdout
            time.sleep(0.3)
        fleet.machines[CUT].power_cut()
        return playing.result()


def test_a_board_that_loses_its_power_stops_no_other(
    image: Image, wheelhouse: Path, fleet: MakeFleet, tmp_path: Path
) -> None:
    """While pip installs edgesparse. The next run changes nothing on the others. On that board it installs again all
    that pip may not have written to its end, for which this wheelhouse is too small, as one line says.
    """
    boards = fleet(image.disk)
    options = {"wheelhouse": str(small_wheelhouse(wheelhouse, tmp_path / "wheelhouse")), "max_fail": 50}
    options.update(key=str(CACHE / "fleet.pub"), provision_options=["--any-machine"])
    first = run_and_cut(boards, f"test -d {INSTALLED}", "provision", **options)
    assert first.returncode != 0 and recap(first)[CUT]["unreachable"] == 1, first.stdout + first.stderr
    boards.start(CUT)
    again = run(boards, "provision", **options)
    assert "--force-reinstall" in again.stdout and "copy the whole folder" in again.stdout, again.stdout + again.stderr
    failed = {host: bool(counts["failed"]) for host, counts in recap(again).items()}
    assert failed == {name: name == CUT for name in NAMES}
    assert not any(counts["changed"] for host, counts in recap(again).items() if host != CUT), again.stdout


def devices(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """Return the state and the version of each device, as the playbook shows them."""
    done = run(fleet, "status")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((fleet.folder / "fleet.json").read_text())["devices"]
    return {row["host"]: (row["state"], row["version"]) for row in rows}


def changed(done: subprocess.CompletedProcess[str]) -> dict[str, bool]:
    assert done.returncode == 0, done.stdout + done.stderr
    return {host: bool(counts["changed"]) for host, counts in recap(done).items()}


def test_a_rollout_ends_though_one_board_loses_its_power(
    provisioned: Provisioned, fleet: MakeFleet, tmp_path: Path
) -> None:
    """In the middle of its deploy. The next run brings it to the same version, and all roll back by hand."""
    boards, bundle = fleet(provisioned.disk), tmp_path / "1.1.esb"
    make_bundle(tmp_path / "contents", bundle, "1.1")
    for machine in boards.machines.values():
        machine.check(SLOWER)
    options = {"bundle": str(bundle), "batches": ["100%"], "max_fail": 70, **HEALTH}
    first = run_and_cut(boards, f"test -e {JOURNAL}", "rollout", **options)
    lost = recap(first)[CUT]
    assert first.returncode != 0 and (lost["failed"] or lost["unreachable"]), first.stdout + first.stderr
    boards.start(CUT)
    assert changed(run(boards, "rollout", **options)) == {name: name == CUT for name in NAMES}
    assert devices(boards) == dict.fromkeys(NAMES, ("healthy", "1.1"))
    assert all(changed(run(boards, "rollback", **HEALTH)).values())
    assert devices(boards) == dict.fromkeys(NAMES, ("healthy", "1.0"))
