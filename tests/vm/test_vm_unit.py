"""The unit under a booted systemd: start, state, watchdog, reload, limits, hardening, stop, reboot. Marker `vm`."""

from __future__ import annotations

import json

import pytest
from provisioned import Start, serves, show, status
from qemu import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

WATCHDOG = 30.0
"""WatchdogSec of the unit."""


def drop_in(machine: Machine, *lines: str) -> None:
    """Change the unit until the machine is off, and reload systemd."""
    folder = "/run/systemd/system/edgesparse.service.d"
    text = "\\n".join(("[Service]", *lines))
    machine.check(f"mkdir -p {folder}; printf '%b\\n' '{text}' > {folder}/test.conf; systemctl daemon-reload")


def test_detections_without_a_hand_after_a_reboot(start: Start) -> None:
    """READY and STATUS reach systemd, and the camera's frames are detected in, before a reboot and after it."""
    machine = start()
    state = serves(machine)
    assert state["cameras"][0]["state"] == "live" and state["pid"] == int(show(machine, "MainPID"))
    assert show(machine, "ActiveState") == "active" and show(machine, "SubState") == "running"
    assert "frames/s from 1 of 1 cameras" in show(machine, "StatusText")
    machine.reboot()
    after = serves(machine)
    assert after["pid"] == int(show(machine, "MainPID")) and after["package"] == state["package"]
    assert show(machine, "NRestarts") == "0"


def test_a_stopped_process_is_restarted_within_the_watchdogs_time(start: Start) -> None:
    machine = start()
    pid = serves(machine)["pid"]
    before = float(machine.check("cut -d' ' -f1 /proc/uptime"))
    machine.check(f"kill -STOP {pid}")
    machine.until("journalctl -u edgesparse --no-pager | grep -q 'Watchdog timeout'", WATCHDOG * 6)
    assert float(machine.check("cut -d' ' -f1 /proc/uptime")) - before < WATCHDOG + 10
    assert serves(machine)["pid"] != pid and show(machine, "NRestarts") == "1"


def test_a_reload_keeps_the_process(start: Start) -> None:
    machine = start()
    pid = serves(machine)["pid"]
    machine.check("sed -i 's/320x180/640x360/' /etc/edgesparse/device.yaml && systemctl reload edgesparse")
    machine.until("journalctl -u edgesparse --no-pager | grep -q 'reloaded:'", 120)
    state = serves(machine)
    assert state["pid"] == pid and show(machine, "NRestarts") == "0" and state["cameras"][0]["height"] == 360
    machine.check("echo 'nonsense: 1' >> /etc/edgesparse/device.yaml && systemctl reload edgesparse")
    machine.until("journalctl -u edgesparse -p err --no-pager | grep -q 'reload is refused.*nonsense'", 120)
    assert serves(machine)["pid"] == pid, "a wrong file changes nothing"


def test_systemd_follows_a_reload(start: Start) -> None:
    """RELOADING=1 and READY=1 change the unit's state, also where SIGHUP does not come from systemd."""
    machine = start()
    pid = serves(machine)["pid"]
    machine.check(f"systemctl log-level debug; kill -HUP {pid}")
    journal = "journalctl -b _PID=1 -o cat --no-pager"
    machine.until(f"{journal} | grep -q 'edgesparse.service: Changed reload -> running'", 180)
    changes = machine.check(f"{journal} | grep 'edgesparse.service: Changed'").splitlines()
    assert [line.partition("Changed ")[2] for line in changes[-2:]] == ["running -> reload", "reload -> running"]
    assert serves(machine)["pid"] == pid


def test_wrong_settings_end_it_without_a_restart(start: Start) -> None:
    """Exit code 2 prevents restarts, and the journal has one line that says what is wrong."""
    machine = start()
    machine.check("echo 'nonsense: 1' >> /etc/edgesparse/device.yaml; systemctl restart --no-block edgesparse")
    machine.until("systemctl is-failed edgesparse", 300)
    assert show(machine, "ExecMainStatus") == "2" and show(machine, "NRestarts") == "0"
    (line,) = [line for line in machine.journal("-u edgesparse -b").splitlines() if "nonsense" in line]
    assert "device.yaml" in line


def test_crashes_end_in_the_start_limit(start: Start) -> None:
    machine = start()
    crash = 'ExecStart=/bin/sh -c "kill -SEGV $$$$"'
    drop_in(machine, "ExecStartPre=", "ExecStart=", crash, "RestartSec=0.1")
    machine.run("systemctl restart edgesparse")
    machine.until("systemctl is-failed edgesparse && journalctl --no-pager -u edgesparse | grep -q 'too quickly'", 200)
    assert 5 <= int(show(machine, "NRestarts")) <= 8 and show(machine, "ActiveState") == "failed"


def test_a_stop_drains_in_time(start: Start) -> None:
    """SIGTERM is enough: no SIGKILL, and no error in the journal."""
    machine = start()
    serves(machine)
    stopped = machine.run("systemctl stop edgesparse")
    assert stopped.code == 0 and stopped.seconds < 8
    assert show(machine, "Result") == "success" and show(machine, "ExecMainStatus") == "0"
    assert "State 'stop-sigterm' timed out" not in machine.journal("-u edgesparse")
    assert not status(machine), "systemd removes /run/edgesparse"


def test_a_stop_under_load_drains_in_time(start: Start) -> None:
    """Frames come faster than they are detected in, other programs take the processors, and every row is whole."""
    machine = start()
    machine.check("sed -i 's/fps: 5/fps: 30/; s/320x180/640x360/' /etc/edgesparse/device.yaml")
    machine.check("echo '  jsonl: {file: /var/lib/edgesparse/rows.jsonl, most: 50 MB}' >> /etc/edgesparse/device.yaml")
    machine.check("systemctl restart edgesparse")
    serves(machine)
    machine.check("for n in 1 2; do (while :; do :; done) >/dev/null 2>&1 & done")
    stopped = machine.run("systemctl stop edgesparse")
    assert stopped.code == 0 and show(machine, "Result") == "success" and show(machine, "ExecMainStatus") == "0"
    rows = machine.check("tail -n 5 /var/lib/edgesparse/rows.jsonl")
    assert rows.endswith("\n") and all("detections" in json.loads(row) for row in rows.splitlines())


def test_lines_of_the_journal_have_priorities(start: Start) -> None:
    """A camera that goes is a warning, and no error."""
    machine = start()
    serves(machine)
    machine.check("echo vivid.0 > /sys/bus/platform/drivers/vivid/unbind")
    machine.until("journalctl -u edgesparse -p warning --no-pager | grep -q 'delivers no frames'", 60)
    lines = machine.check("journalctl -u edgesparse -b -o json --no-pager --output-fields=PRIORITY,MESSAGE")
    entries = [json.loads(line) for line in lines.splitlines()]
    (priority,) = {entry["PRIORITY"] for entry in entries if "delivers no frames" in entry["MESSAGE"]}
    assert priority == "4"


INSIDE = {
    "touch /etc/edgesparse/x": False,
    "touch /opt/edgesparse/x": False,
    "touch /usr/x": False,
    "ls /root": False,
    "cat /etc/shadow": False,
    "dd if=/dev/vda count=1": False,
    "mount -t tmpfs tmpfs /tmp": False,
    "unshare -r true": False,
    "date -s 2030-01-01": False,
    "ls /proc/1/fd": False,
    "echo 1 > /proc/sys/kernel/panic": False,
    "touch /var/lib/edgesparse/x && rm /var/lib/edgesparse/x": True,
    "cat /etc/edgesparse/device.yaml": True,
    "test -r /dev/video0 -a -w /dev/video0 && head -c 0 /dev/video0": True,
}
"""What the service's process may do, run in its unit in place of the service."""


def test_what_the_service_can_not_do(start: Start) -> None:
    machine = start()
    machine.check("systemctl stop edgesparse")
    lines = "".join(f"({command}) >/dev/null 2>&1; echo RESULT $? >&2\n" for command in INSIDE)
    machine.check(f"cat > /usr/local/bin/inside <<'END'\n#!/bin/sh\n{lines}\nEND\nchmod +x /usr/local/bin/inside")
    drop_in(machine, "Type=oneshot", "Restart=no", "ExecStartPre=", "ExecStart=", "ExecStart=/usr/local/bin/inside")
    machine.check("systemctl start edgesparse")
    output = machine.check("journalctl -u edgesparse -o cat --no-pager | grep '^RESULT'")
    allowed = [line.split()[1] == "0" for line in output.splitlines()]
    assert dict(zip(INSIDE, allowed, strict=True)) == INSIDE
