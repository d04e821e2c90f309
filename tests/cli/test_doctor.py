"""`doctor` in a container: what the host did not pass through, and the option that passes it."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgesparse import device
from edgesparse.cli import doctor
from edgesparse.cli.doctor import Finding


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """The findings in a container that has these files, by name."""
    monkeypatch.setenv("EDGESPARSE_STATE", str(tmp_path))

    def findings(*files: str, jetson: bool = True) -> dict[str, Finding]:
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return {found.what: found for found in doctor.passed_through(tmp_path, jetson)}

    return findings


def test_a_container_without_anything_of_the_jetson(look: Callable[..., dict[str, Finding]]) -> None:
    found = look("sys/class/video4linux/video0", "sys/class/video4linux/video1")
    said = {what: finding.remedy for what, finding in found.items() if finding.state == "missing"}
    assert "--runtime nvidia" in said["container: GPU"] and "--runtime nvidia" in said["container: /dev/nvmap"]
    assert said["container: cameras"] == "--device /dev/video0 --device /dev/video1"
    assert "argus_socket" in said["container: nvargus"] and "nvargus-daemon" in said["container: nvargus"]
    assert "nv_tegra_release:ro" in said["container: L4T"]
    assert found["container: state"].state == "ok"


def test_a_container_with_all_of_it(
    look: Callable[..., dict[str, Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as argus:
        argus.bind("tmp/argus_socket")
        found = look(
            "dev/nvgpu/igpu0/as", "dev/nvmap", "dev/video0", "sys/class/video4linux/video0", "etc/nv_tegra_release"
        )
    assert {finding.state for finding in found.values()} == {"ok"} and len(found) == 6


def test_one_camera_of_two(look: Callable[..., dict[str, Finding]]) -> None:
    found = look("dev/video0", "sys/class/video4linux/video0", "sys/class/video4linux/video2")
    assert found["container: cameras"].found == "no /dev/video2 in here"


def test_a_node_that_the_user_may_not_open(
    look: Callable[..., dict[str, Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: "nvmap" not in str(path))
    found = look("dev/nvmap", "dev/nvhost-gpu")
    assert "no right to open" in found["container: /dev/nvmap"].found
    assert found["container: /dev/nvmap"].remedy.endswith(f"its number is {(tmp_path / 'dev/nvmap').stat().st_gid}")


def test_a_container_on_another_machine(look: Callable[..., dict[str, Finding]]) -> None:
    found = look(jetson=False)
    assert set(found) == {"container: GPU", "container: state"} and found["container: GPU"].remedy == "--gpus all"
    assert look("dev/nvidia0", jetson=False)["container: GPU"].state == "ok"


def test_a_state_that_cannot_be_written(
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
def test_what_tells_a_container(
    monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], environment: str, name: str
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in files)
    monkeypatch.setattr(device, "_read", lambda path: environment)
    assert device.container() == name


def test_what_tells_a_jetsons_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "5.15.148-tegra")
    assert device.tegra_kernel()


def test_doctor_says_it_only_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "container", lambda: "")
    assert not [found for found in doctor.examine() if found.what.startswith("container")]
    monkeypatch.setattr(device, "container", lambda: "docker")
    assert [found for found in doctor.examine() if found.what.startswith("container")]


def test_where_there_is_a_gpu_its_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the CPU does what the kernels would."""
    machine = device.probe()
    monkeypatch.setattr(device, "probe", lambda: replace(machine, gpu="Orin", sm="8.7"))
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    found = {finding.what: finding for finding in doctor.examine()}["nvcc"]
    assert found.state == "missing" and "the CPU prepares frames" in found.found and "apt install" in found.remedy
    monkeypatch.setattr("shutil.which", lambda name, path=None: str(tmp_path / name))
    found = {finding.what: finding for finding in doctor.examine()}["nvcc"]
    assert (found.state, found.found) == ("ok", str(tmp_path / "nvcc"))
