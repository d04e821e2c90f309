"""`doctor` in a container: what the host does not pass through, and the option that passes it."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Command

from edgesparse import device
from edgesparse.cli import doctor
from edgesparse.cli.doctor import Finding
from edgesparse.stream import pygobject
from edgesparse.stream.recording import h264


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Findings in a container with these files, by part."""
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path))

    def findings(*files: str, jetson: bool = True) -> dict[str, Finding]:
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return {finding.part: finding for finding in doctor.passed_through(tmp_path, jetson)}

    return findings


def test_a_container_to_which_nothing_of_the_jetson_is_passed(look: Callable[..., dict[str, Finding]]) -> None:
    findings = look("sys/class/video4linux/video0", "sys/class/video4linux/video1")
    remedies = {part: finding.remedy for part, finding in findings.items() if finding.state == "missing"}
    assert "--runtime nvidia" in remedies["container: GPU"] and "--runtime nvidia" in remedies["container: /dev/nvmap"]
    assert remedies["container: cameras"] == "--device /dev/video0 --device /dev/video1"
    assert "argus_socket" in remedies["container: nvargus"] and "nvargus-daemon" in remedies["container: nvargus"]
    assert "nv_tegra_release:ro" in remedies["container: L4T"]
    assert findings["container: state"].state == "ok"


def test_a_container_to_which_everything_is_passed(
    look: Callable[..., dict[str, Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)  # socket paths have to be short
    with socket.socket(socket.AF_UNIX) as argus:
        argus.bind("tmp/argus_socket")
        findings = look(
            "dev/nvgpu/igpu0/as", "dev/nvmap", "dev/video0", "sys/class/video4linux/video0", "etc/nv_tegra_release"
        )
    assert {finding.state for finding in findings.values()} == {"ok"} and len(findings) == 6


def test_one_camera_of_two(look: Callable[..., dict[str, Finding]]) -> None:
    findings = look("dev/video0", "sys/class/video4linux/video0", "sys/class/video4linux/video2")
    assert findings["container: cameras"].detail == "no /dev/video2 in the container"


def test_a_node_without_permission(
    look: Callable[..., dict[str, Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: "nvmap" not in str(path))
    finding = look("dev/nvmap", "dev/nvhost-gpu")["container: /dev/nvmap"]
    assert "no permission to open" in finding.detail
    assert finding.remedy.endswith(f"its number is {(tmp_path / 'dev/nvmap').stat().st_gid}")


def test_a_container_on_another_machine(look: Callable[..., dict[str, Finding]]) -> None:
    findings = look(jetson=False)
    assert set(findings) == {"container: GPU", "container: state"}
    assert findings["container: GPU"].remedy == "--gpus all"
    assert look("dev/nvidia0", jetson=False)["container: GPU"].state == "ok"


def test_a_state_folder_that_cannot_be_written(
    look: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPARSE_STATE", "/proc/nothing")
    assert "-v edgesparse:/proc/nothing" in look()["container: state"].remedy


@pytest.mark.parametrize(
    ("files", "environment", "name"),
    [
        (("/.dockerenv",), "", "docker"),
        (("/run/.containerenv",), "", "podman"),
        ((), "PATH=/bin\0container=lxc\0", "lxc"),
        ((), "PATH=/bin\0", ""),
    ],
)
def test_a_container_is_recognized(
    monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], environment: str, name: str
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in files)
    monkeypatch.setattr(device, "_read", lambda path: environment)
    assert device.container() == name


def test_a_jetsons_kernel_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "5.15.148-tegra")
    assert device.tegra_kernel()


def test_container_findings_only_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "container", lambda: "")
    assert not [finding for finding in doctor.examine() if finding.part.startswith("container")]
    monkeypatch.setattr(device, "container", lambda: "docker")
    assert [finding for finding in doctor.examine() if finding.part.startswith("container")]


def test_with_a_gpu_its_compiler_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the CPU does the work of the kernels."""
    machine = device.probe()
    monkeypatch.setattr(device, "probe", lambda: replace(machine, gpu="Orin", sm="8.7"))
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    compiler = {finding.part: finding for finding in doctor.examine()}["nvcc"]
    assert compiler.state == "missing" and "apt install" in compiler.remedy
    assert "the CPU prepares frames" in compiler.detail
    monkeypatch.setattr("shutil.which", lambda name, path=None: str(tmp_path / name))
    compiler = {finding.part: finding for finding in doctor.examine()}["nvcc"]
    assert (compiler.state, compiler.detail) == ("ok", str(tmp_path / "nvcc"))


def test_gstreamer_of_either_kind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   YES (1.20.3)")
    assert doctor._gstreamer().detail == "OpenCV's, for CSI cameras"
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   NO")
    monkeypatch.setattr(pygobject, "gstreamer", object)
    assert doctor._gstreamer() == Finding("GStreamer", "ok", "PyGObject's, for CSI cameras")

    def none() -> None:
        raise ImportError("Python 3.12 has no bindings of GStreamer")

    monkeypatch.setattr(pygobject, "gstreamer", none)
    assert doctor._gstreamer().detail == "OpenCV has none, and Python 3.12 has no bindings of GStreamer"


def test_extras_are_listed_with_how_to_install_them(edgesparse: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tuf", None)
    out = edgesparse("doctor").out
    assert "pip install 'edgesparse[fleet]'" in out and "[otel]" in out
    assert re.search(r"^memory +[\d.]+ GB", out, re.MULTILINE)


def test_what_videos_are_encoded_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h264, "h264_here", lambda: ("openh264enc", ""))
    assert doctor._h264().state == "ok"
    reason = "no H.264 encoder works here (no element): sudo apt-get install x"
    monkeypatch.setattr(h264, "h264_here", lambda: ("", reason))
    finding = doctor._h264()
    assert (finding.state, finding.remedy.split()[0]) == ("missing", "sudo")
    assert finding.detail == "no H.264 encoder works here (no element); .mp4 videos get VP8, clips are .webm"
