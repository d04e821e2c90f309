"""A virtual machine that boots in seconds: V4L2's virtual camera, the detect program, and power cuts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cameras
import pytest
import qemu
import squares
from make_image import ROOT, CannotMake
from native import ARCH, NativeImage, NativeWriter, make_native
from qemu import Disks, Machine, MachineFailed
from writer import CUT

pytestmark = [pytest.mark.qemu, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeImage:
    if why := qemu.missing(ARCH):
        pytest.skip(why)
    try:
        return make_native(tmp_path_factory.mktemp("native") / "image")
    except CannotMake as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def machine(native: NativeImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = NativeWriter(native).machine(tmp_path_factory.mktemp("machine"))
    try:
        machine.start()
    except MachineFailed as error:  # a container may forbid what QEMU needs
        pytest.skip(f"QEMU cannot boot here: {error}")
    yield machine
    machine.close()


def test_the_kernels_cameras_are_read_beside_each_other(machine: Machine) -> None:
    """In sizes and rates that they have and have not."""
    assert json.loads(machine.check(f"camera {cameras.several.__name__}", 600)) == cameras.SEVERAL


def test_a_camera_that_stops_sending_is_reopened(machine: Machine) -> None:
    result = json.loads(machine.check(f"camera {cameras.silence.__name__}", 600))
    assert "no frame" in result["why"] and result["shapes"] == [[180, 320, 3]] * 5 and result["reopened"] == 1


def test_the_detect_program_reads_a_camera_by_number(machine: Machine, tmp_path: Path) -> None:
    """`python apps/detect.py --camera 0`: frames of the color bars, with the red and the green one detected."""
    model = squares.detector(tmp_path / "squares.onnx")
    build = {"backend": "onnxruntime", "candidates": ["fp32"]}
    recipe = {"model": model.name, "classes": list(squares.NAMES), "build": build}
    (tmp_path / "squares.yaml").write_text(json.dumps(recipe))
    program = f"EDGESPARSE_STATE=/tmp/state /opt/edgesparse/bin/python {ROOT}/apps/detect.py --camera 0 --frames 5"
    output = machine.check(f"sh cd /tmp; cp {tmp_path}/squares.* .; {program} --model squares.yaml 2>summary", 600)
    frames = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(frames) == 5 and {box["class"] for frame in frames for box in frame["detections"]} == {"red", "green"}
    assert "5 frames" in machine.check("sh cat /tmp/summary")


def test_the_power_is_cut_in_the_middle_of_a_deploy(machine: Machine) -> None:
    """The kernel mounts the disk again: an engine serves, and the next deploy succeeds."""
    machine.check("prepare deploy 0", 600)
    done = machine.run("work deploy 12", 600)
    assert done.code == CUT and "/run/power/disk" in done.output, "it had not ended"
    machine.power_cut()
    machine.start()
    machine.check("check deploy 0", 600)


def test_a_machine_that_does_not_answer_is_ended(
    native: NativeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "BOOT_SECONDS", 0.3)
    machine = Machine(native, Disks(), tmp_path)
    with pytest.raises(MachineFailed, match="no answer in time"):
        machine.start()
    assert not machine.running and not list(Path("/tmp").glob(f"edgesparse-vm-{os.getpid()}-{id(machine):x}*"))


def test_a_machine_that_qemu_refuses_says_why(native: NativeImage, tmp_path: Path) -> None:
    machine = Machine(native, Disks(), tmp_path)
    machine.data.unlink()
    with pytest.raises(MachineFailed, match=r"qemu ended with 1(?s:.*)No such file"):
        machine.start()
    assert not machine.running
