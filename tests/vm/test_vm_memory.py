"""Memory runs out under systemd, on a board of 1 GB with and without swap. Marker `vm`."""

from __future__ import annotations

import re

import pytest
from make_image import ROOT
from provisioned import Start, serves, show

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

SWAP = "head -c 256M /dev/zero > /swap && chmod 600 /swap && mkswap -q /swap && swapon /swap"
CODE = "from edgesparse.builder.child import worker; worker._end_first(); x = [bytes([1]) * 2**20 for _ in range(4000)]"


@pytest.mark.parametrize("swap", [False, True])
def test_a_build_ends_and_what_started_it_goes_on(start: Start, swap: bool) -> None:
    """In a unit like that of a poll, a build's child wants 4 GB: the kernel ends it and nothing else. The poll, which
    counts it as a failed candidate, and the service are the same processes afterwards.
    """
    (policy,) = re.findall(r"^OOMPolicy=\w+$", (ROOT / "deploy" / "edgesparse-pull.service").read_text(), re.M)
    poll = f"""sh -c '/opt/edgesparse/bin/python -c "{CODE}"; echo ended with $?'"""
    machine = start()
    pid = serves(machine)["pid"]
    if swap:
        machine.check(SWAP)
    output = machine.check(f"systemd-run --quiet --wait --pipe --uid=edgesparse -p {policy} {poll}", 900)
    assert "ended with 137" in output and "Out of memory: Killed process" in machine.check("dmesg")
    assert ("/swap" in machine.check("cat /proc/swaps")) == swap
    assert serves(machine)["pid"] == pid and show(machine, "NRestarts") == "0"
