"""Memory runs out under systemd, on a board of 1 GB with and without swap. Marker `vm`."""

from __future__ import annotations

import pytest
from provisioned import Start, serves, show

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

SWAP = "head -c 256M /dev/zero > /swap && chmod 600 /swap && mkswap -q /swap && swapon /swap"
PYTHON = "/opt/edgesparse/bin/python"
CODE = "from edgesparse.builder.child import worker; worker._end_first(); x = [b'x' * (1 << 20) for _ in range(4000)]"


@pytest.mark.parametrize("swap", [False, True])
def test_a_build_ends_and_the_service_stays(start: Start, swap: bool) -> None:
    """A build's child wants 4 GB: the kernel ends it, and the service detects on in the same process."""
    machine = start()
    pid = serves(machine)["pid"]
    if swap:
        machine.check(SWAP)
    done = machine.run(f'runuser -u edgesparse -- {PYTHON} -c "{CODE}"', 900)
    assert done.code in (137, -9), done.output
    assert "Out of memory: Killed process" in machine.check("dmesg")
    assert ("/swap" in machine.check("cat /proc/swaps")) == swap
    assert serves(machine)["pid"] == pid and show(machine, "NRestarts") == "0"
