"""A disk that is full or slow, a root that is read-only, a clock at 1970: in a virtual machine. Marker `vm`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from power import WORK_SECONDS, Writer
from qemu import Disks, Machine, copy_disk
from writer import FOLDER

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

On = Callable[..., Machine]
"""Starts the machine on the disk that a scenario's work starts from; `speed`: bytes per second of that disk."""


@pytest.fixture
def on(writer: Writer, tmp_path: Path) -> Iterator[On]:
    machines: list[Machine] = []

    def start(scenario: str, speed: int = 0) -> Machine:
        machines.append(writer.machine(tmp_path, Disks(writer.base, writer.host, speed=speed)))
        copy_disk(writer.prepared(scenario), machines[0].data)
        machines[0].start(writer.state)
        return machines[0]

    yield start
    for machine in machines:
        machine.close()


def check_after_cut(writer: Writer, machine: Machine, scenario: str, ended: bool) -> None:
    machine.power_cut()
    machine.start(writer.state)
    machine.check(f"check {scenario} {int(ended)}", WORK_SECONDS)


FULL = f"sh mount /dev/vdc {FOLDER} && (dd if=/dev/zero of={FOLDER}/fill bs=1M; true) 2>/dev/null && umount {FOLDER}"
EMPTY = f"sh rm {FOLDER}/fill && umount {FOLDER}"


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [("deploy", "no space in"), ("clips", "less than 64 MB are free"), ("provisioning", "No space left on device")],
)
def test_a_full_disk_is_named_and_nothing_is_lost(writer: Writer, on: On, scenario: str, reason: str) -> None:
    """Every block is taken, as root; once there is space again, the same work succeeds."""
    machine = on(scenario)
    machine.check(FULL)
    done = machine.run(f"work {scenario} 0", WORK_SECONDS)
    assert done.code == 1 and reason in done.output.strip().splitlines()[-1], done.output
    machine.check(EMPTY)
    check_after_cut(writer, machine, scenario, False)


def test_a_spool_opens_on_a_full_disk(writer: Writer, on: On) -> None:
    machine = on("spool")
    machine.check(FULL)
    machine.check("work spool 0", WORK_SECONDS)
    machine.check(EMPTY)
    check_after_cut(writer, machine, "spool", False)


@pytest.mark.parametrize("scenario", ["deploy that builds", "clips"])
def test_a_read_only_root_with_a_data_partition_is_enough(writer: Writer, on: On, scenario: str) -> None:
    """Only the state's folder and temporary files in memory can be written."""
    machine = on(scenario)
    machine.check("sh mount -o remount,ro / && ! touch /x 2>/dev/null")
    machine.check(f"work {scenario} 0", WORK_SECONDS)
    check_after_cut(writer, machine, scenario, True)


@pytest.mark.parametrize("scenario", ["deploy", "rollback", "clips", "history"])
def test_a_clock_at_1970_changes_nothing(writer: Writer, on: On, scenario: str) -> None:
    """The work is done before NTP answers, and checked after it."""
    machine = on(scenario)
    machine.check("sh date -s @100")
    machine.check(f"work {scenario} 0", WORK_SECONDS)
    check_after_cut(writer, machine, scenario, True)


def test_a_deploy_to_a_slow_disk_ends(writer: Writer, on: On) -> None:
    """300 KB per second, to read and to write: a worn SD card."""
    machine = on("deploy", speed=300_000)
    machine.check("work deploy 0", WORK_SECONDS)
    check_after_cut(writer, machine, "deploy", True)


PYTHON = "/opt/edgesparse/bin/python"
SERVICE = (
    "echo 200 > /proc/self/oom_score_adj; exec python3 -c 'x = bytearray(100 << 20); import time; time.sleep(9999)'"
)
BUILD = 'from edgesparse.builder.child import worker; worker._end_first(); x = [b"x" * (1 << 20) for _ in range(2000)]'


def test_where_memory_runs_out_a_build_ends_and_the_service_stays(on: On) -> None:
    """A process with the score and the memory of a service (stand-in), and a build's child that wants too much."""
    machine = on("package")
    machine.check(f'sh sh -c "{SERVICE}" >/dev/null 2>&1 & echo $! > /run/service')
    machine.check(
        "sh until grep -q ^VmRSS:.*1[0-9][0-9][0-9][0-9][0-9] /proc/$(cat /run/service)/status; do sleep 0.2; done"
    )
    done = machine.run(f"sh cd /host; {PYTHON} -c '{BUILD}'", WORK_SECONDS)
    assert done.code in (137, -9), done.output
    machine.check("sh test -d /proc/$(cat /run/service)")
    assert "Out of memory: Killed process" in machine.check("sh dmesg")
