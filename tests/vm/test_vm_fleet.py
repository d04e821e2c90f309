"""Ansible's provisioning of virtual machines, one of which loses its power on the way. Marker `vm`."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from make_image import CACHE, Image
from playing import play, recap
from qemu import Disks, Machine
from vm_fleet import NAMES, Fleet, small_wheelhouse

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]

CUT = NAMES[-1]
INSTALLED = "/opt/edgesparse/lib/python3.11/site-packages/edgesparse"

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
