"""What this machine is, and what is read from the files by which Jetsons tell."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesparse import device

Fake = Callable[[dict[str, str], str], device.Machine]


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n", "36.4.3"),
        ("# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref\n", "35.2.1"),
        ("# R39 (release), REVISION: 2.0\n", "39.2.0"),
        ("something else", ""),
        ("", ""),
    ],
)
def test_the_l4t_release(text: str, release: str) -> None:
    assert device.parse_l4t(text) == release


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("processor : 0\nmodel name\t: Intel(R) Xeon(R)\nflags : a b\n", "Intel(R) Xeon(R)"),
        ("processor : 0\nCPU part\t: 0xd42\n", "0xd42"),
        ("", ""),
    ],
)
def test_the_cpu(text: str, cpu: str) -> None:
    assert device.parse_cpu(text) == cpu


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A probe of a machine with these files, whose nvidia-smi prints this line; none if it is empty."""

    def probe(files: dict[str, str], smi: str) -> device.Machine:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{smi}'\n")
        program.chmod(0o755 if smi else 0o644)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if smi else str(tmp_path))
        monkeypatch.setattr(device, "_read", lambda path: files.get(path, ""))
        device.probe.cache_clear()
        return device.probe()

    yield probe
    device.probe.cache_clear()


ORIN = {
    "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
}


@pytest.mark.parametrize("smi", ["", "Orin (nvgpu), [N/A], [N/A]", "Orin (nvgpu), [Not Supported], 540.4.0"])
def test_an_orin_is_known_by_its_name_whatever_nvidia_smi_says(fake: Fake, smi: str) -> None:
    found = fake(ORIN, smi)
    assert (found.model, found.sm, found.l4t) == ("NVIDIA Jetson Orin Nano Developer Kit", "8.7", "36.4.3")
    assert found.gpu.startswith("Orin") and found.jetpack == "6.1 or 6.2"
    assert "[" not in "".join(found.named().values())


@pytest.mark.parametrize(("release", "jetpack"), [("R35 ", "5.1"), ("R36 ", "6.0"), ("R39 ", "7.2"), ("R99 ", "")])
def test_the_jetpack_of_a_release(fake: Fake, release: str, jetpack: str) -> None:
    text = f"# {release}(release), REVISION: 3.0"
    assert fake({**ORIN, "/etc/nv_tegra_release": text}, "").jetpack == jetpack


def test_another_machine_has_what_nvidia_smi_says(fake: Fake) -> None:
    found = fake({}, "NVIDIA H100 80GB HBM3, 9.0, 550.54.15")
    assert (found.gpu, found.sm, found.driver, found.l4t) == ("NVIDIA H100 80GB HBM3", "9.0", "550.54.15", "")


@pytest.mark.parametrize("smi", ["", "No devices were found"])
def test_a_machine_without_a_gpu_has_none(fake: Fake, smi: str) -> None:
    found = fake({}, smi)
    assert (found.gpu, found.sm, found.driver) == ("", "", "")
    assert "gpu" not in found.named()


def test_this_machine() -> None:
    found = device.probe()
    assert found.arch == platform.machine() and found.python == platform.python_version()
    assert found.cores >= 1 and found.memory > 1 << 20
    assert 0 < device.available_memory() <= found.memory
    assert 0 < device.peak_memory() < found.memory
