"""The service under systemd while the clock is wrong, set by NTP, or in another time zone. Marker `vm`."""

from __future__ import annotations

import json
import time

import pytest
from provisioned import Start, serves, show
from qemu import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

NTP = "[Time]\\nNTP=127.0.0.1\\nRootDistanceMaxSec=30\\n"
"""Under emulation, an answer takes long."""
PROGRAM = "/opt/edgesparse/bin/edgesparse"


def now(machine: Machine) -> float:
    return float(machine.check("date +%s.%N"))


def test_ntp_arrives_while_the_service_runs(start: Start) -> None:
    """The service starts in 1970 and detects. systemd-timesyncd then sets the clock, and nothing restarts."""
    machine, true = start(), time.time()
    machine.check("systemctl stop edgesparse; date -s @1000; systemctl start edgesparse")
    state = serves(machine)
    assert state["time"] < 10_000 and state["ready"]
    machine.check(f"mkdir -p /run/systemd/timesyncd.conf.d; printf '{NTP}' > /run/systemd/timesyncd.conf.d/test.conf")
    machine.check(f"ip link set lo up; systemd-run --quiet python3 /host/inside/sntp.py {true}")
    machine.check("systemctl start systemd-timesyncd")
    machine.until(f"test $(date +%s) -ge {int(true)}", 300)
    after = serves(machine)
    assert after["pid"] == state["pid"] and show(machine, "NRestarts") == "0"
    assert 0 <= after["time"] - true < 3600 and after["uptime_s"] < 3600, after
    assert "Watchdog" not in machine.journal("-u edgesparse -b")
    assert "synchronization" in machine.journal("-u systemd-timesyncd").lower()


def test_a_clock_that_goes_back_a_day_stops_nothing(start: Start) -> None:
    machine = start()
    state = serves(machine)
    machine.check(f"date -s @{now(machine) - 86_400:.0f}")
    after = serves(machine)
    assert after["pid"] == state["pid"] and after["time"] < state["time"] - 80_000
    assert after["uptime_s"] > state["uptime_s"]


@pytest.mark.parametrize(("zone", "hours"), [("Asia/Kathmandu", 5.75), ("America/St_Johns", -3.5)])
def test_a_time_zone_changes_only_what_people_read(start: Start, zone: str, hours: float) -> None:
    """What the service writes is in UTC; `status` shows the deploys in local time."""
    machine = start()
    deployed = json.loads(machine.check(f"{PROGRAM} status --json"))["running"]["committed"]
    machine.check(f"ln -sf /usr/share/zoneinfo/{zone} /etc/localtime; date -s 2026-01-15T12:00Z")
    machine.check("echo '  jsonl: {file: /var/lib/edgesparse/log.jsonl}' >> /etc/edgesparse/device.yaml")
    machine.check("systemctl restart edgesparse")
    state = serves(machine)
    assert abs(state["time"] - now(machine)) < 60
    line = json.loads(machine.check("head -1 /var/lib/edgesparse/log.jsonl"))
    assert line["time"].startswith("2026-01-15T12:") and line["time"].endswith("Z")
    shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(deployed + hours * 3600))
    assert shown in machine.check(f"{PROGRAM} status"), shown
