"""From a Debian root to a running service, in a virtual machine without a network. Marker `vm`."""

from __future__ import annotations

import pytest
from make_image import ROOT
from markdown_blocks import blocks
from provisioned import Provisioned, Start, serves

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

PYTHON = "/opt/edgesparse/bin/python"


def test_a_root_becomes_a_running_service(provisioned: Provisioned) -> None:
    """The check announces what the run changes; a second run and a second check change nothing."""
    reports = provisioned.reports
    assert all(report["ok"] for report in reports.values()), reports
    changes = {name: {step["step"]: step["changes"] for step in report["steps"]} for name, report in reports.items()}
    assert changes["run"] == changes["before"] and changes["run"]["deploy"]
    assert not reports["again"]["changed"] and not reports["after"]["changed"], changes


def test_files_have_the_promised_owners_and_modes(start: Start) -> None:
    machine = start()
    expected = {
        "/etc/edgesparse": "root root 755",
        "/etc/edgesparse/trusted": "root root 755",
        "/etc/edgesparse/device.yaml": "root edgesparse 640",
        "/etc/systemd/system/edgesparse.service": "root root 644",
        "/opt/edgesparse/bin/edgesparse": "root root 755",
        "/var/lib/edgesparse": "edgesparse edgesparse 750",
    }
    listing = machine.check(f"stat -c '%n %U %G %a' {' '.join(expected)}").splitlines()
    assert dict(line.split(" ", 1) for line in listing) == expected
    groups = machine.check("id -nG edgesparse").split()
    assert "video" in groups and "root" not in groups
    code = "from edgesparse.package import sign; sign.create_key()"  # as the first package with native code does
    machine.check(f"runuser -u edgesparse -- env EDGESPARSE_STATE=/var/lib/edgesparse {PYTHON} -c '{code}'")
    assert machine.check("stat -c '%U %a' /var/lib/edgesparse/key").strip() == "edgesparse 600"


def test_what_the_guide_says_removes_everything(start: Start) -> None:
    (block,) = [block for block in blocks(ROOT / "docs" / "guide" / "provision.md") if "userdel" in block.text]
    machine = start()
    serves(machine)
    machine.check("set -e\n" + block.text.replace("sudo ", ""))
    assert "could not be found" in machine.run("systemctl status edgesparse").output
    left = machine.check("find / -xdev -name '*edgesparse*' -not -path '/proc/*' -not -path '/var/log/*'").split()
    assert not left and "edgesparse" not in machine.check("cat /etc/passwd /etc/group")
