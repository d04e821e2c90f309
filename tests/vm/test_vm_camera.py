"""V4L2 in the kernel, by its virtual camera `vivid`: formats, live detection, unplugging, errors. Marker `vm`."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from provisioned import Start, serves, show, status
from qemu import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

PYTHON = "/opt/edgesparse/bin/python"
DRIVER = "/sys/bus/platform/drivers/vivid"
AS_SERVICE = "runuser -u edgesparse -- env EDGESPARSE_STATE=/var/lib/edgesparse"


def camera(machine: Machine) -> dict[str, Any]:
    cameras: list[dict[str, Any]] = status(machine).get("cameras") or [{"state": "none"}]
    return cameras[0]


def until_camera(machine: Machine, state: str, seconds: float = 120.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (now := camera(machine))["state"] != state:
        assert time.monotonic() < end, (now, machine.journal("-u edgesparse")[-3000:])
        time.sleep(0.3)
    return now


def test_every_format_shows_the_same_image(start: Start) -> None:
    """Whatever the driver's pixel format, what arrives is BGR of the requested size, and shows the same."""
    machine = start()
    machine.check("systemctl stop edgesparse")
    machine.check("v4l2-ctl -d /dev/video0 --set-ctrl=osd_text_mode=2")
    formats = json.loads(machine.check(f"{PYTHON} /host/inside/formats.py /dev/video0 320x180 2>/dev/null", 300))
    assert {"YUYV", "UYVY", "NV12", "NV21", "YU12", "YV12", "BGR3", "RGB3"} <= formats.keys(), formats
    for fourcc, image in formats.items():
        assert image["shape"][:2] == [180, 320], (fourcc, image)
        assert image["distance"] < 12, (fourcc, image)


def test_the_detect_program_reads_a_camera_by_number(start: Start) -> None:
    """`python apps/detect.py --camera 0`: frames of the color bars, with the red and the green one detected."""
    machine = start()
    machine.check("systemctl stop edgesparse")
    program = f"{AS_SERVICE} {PYTHON} /host/apps/detect.py --camera 0 --frames 5"
    output = machine.check(f"cd /tmp; {program} --model /var/lib/edgesparse/current/package 2>/tmp/summary", 300)
    frames = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(frames) == 5 and all(frame["detections"] for frame in frames), output
    names = {box["class"] for frame in frames for box in frame["detections"]}
    assert names == {"red", "green"}, frames[0]
    assert "5 frames" in machine.check("cat /tmp/summary")


def test_a_camera_that_is_unplugged_comes_back(start: Start) -> None:
    """Without a restart of the service, which says so meanwhile; twice, since the second time other code runs."""
    machine = start()
    pid = serves(machine)["pid"]
    for _ in range(2):
        machine.check(f"echo vivid.0 > {DRIVER}/unbind")
        away = until_camera(machine, "away")
        assert away["why"] and "no camera delivers frames" in show(machine, "StatusText")
        machine.check(f"echo vivid.0 > {DRIVER}/bind; udevadm settle")
        until_camera(machine, "live")
        assert serves(machine)["pid"] == pid
    assert show(machine, "NRestarts") == "0" and camera(machine)["reopened"] == 2


def test_a_name_that_udev_makes_is_followed(start: Start) -> None:
    """/dev/v4l/by-path, also after the camera was unplugged and the link was gone with it."""
    machine = start()
    (name,) = machine.check("ls /dev/v4l/by-path").split()
    assert name.startswith("platform-vivid") and name.endswith("-video-index0")
    machine.check(f"sed -i 's#/dev/video0#/dev/v4l/by-path/{name}#' /etc/edgesparse/device.yaml")
    machine.check("systemctl reload edgesparse")
    machine.until("journalctl -u edgesparse --no-pager | grep -q 'reloaded:'", 120)
    pid = serves(machine)["pid"]
    assert "by-path" in camera(machine)["source"]
    machine.check(f"echo vivid.0 > {DRIVER}/unbind; udevadm settle; ! test -e /dev/v4l/by-path/{name}")
    until_camera(machine, "away")
    machine.check(f"echo vivid.0 > {DRIVER}/bind; udevadm settle")
    until_camera(machine, "live")
    assert serves(machine)["pid"] == pid
