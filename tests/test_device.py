"""The description of this machine, from the files and programs of Jetsons and other machines."""

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
    """A probe of a machine with these files, whose nvidia-smi prints this line; without nvidia-smi if it is empty."""

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
def test_an_orin_is_recognized_by_its_name_whatever_nvidia_smi_prints(fake: Fake, smi: str) -> None:
    machine = fake(ORIN, smi)
    assert (machine.model, machine.sm, machine.l4t) == ("NVIDIA Jetson Orin Nano Developer Kit", "8.7", "36.4.3")
    assert machine.gpu.startswith("Orin") and machine.jetpack == "6.1 or 6.2"
    assert "[" not in "".join(machine.named().values())


def test_in_a_container_the_board_is_recognized_by_its_soc(fake: Fake) -> None:
    machine = fake({**ORIN, "/proc/device-tree/model": "", "/sys/devices/soc0/machine": "NVIDIA Jetson AGX Orin\n"}, "")
    assert (machine.model, machine.gpu, machine.sm) == ("NVIDIA Jetson AGX Orin", "Orin", "8.7")


@pytest.mark.parametrize(("release", "jetpack"), [("R35 ", "5.1"), ("R36 ", "6.0"), ("R39 ", "7.2"), ("R99 ", "")])
def test_the_jetpack_of_a_release(fake: Fake, release: str, jetpack: str) -> None:
    text = f"# {release}(release), REVISION: 3.0"
    assert fake({**ORIN, "/etc/nv_tegra_release": text}, "").jetpack == jetpack


def test_other_machines_are_described_by_nvidia_smi(fake: Fake) -> None:
    machine = fake({}, "NVIDIA H100 80GB HBM3, 9.0, 550.54.15")
    assert (machine.gpu, machine.sm, machine.driver, machine.l4t) == ("NVIDIA H100 80GB HBM3", "9.0", "550.54.15", "")


@pytest.mark.parametrize("smi", ["", "No devices were found"])
def test_a_machine_without_a_gpu(fake: Fake, smi: str) -> None:
    machine = fake({}, smi)
    assert (machine.gpu, machine.sm, machine.driver) == ("", "", "")
    assert "gpu" not in machine.named()


# Recorded on an Orin Nano with L4T 36.4.3 in its 25 W mode, reduced to the lines that are read.
SHOWN = """\
SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Developer Kit
Online CPUs: 0-5
cpu0:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1344000 CurrentFreq=1190400 IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=918000000 CurrentFreq=306000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=2133000000 FreqOverride=0
FAN Dynamic Speed Control=nvfancontrol hwmon0_pwm1=69
NV Power Mode: 25W
"""
LOCKED = SHOWN.replace("GPU MinFreq=306000000", "GPU MinFreq=918000000").replace("Override=0", "Override=1")


@pytest.mark.parametrize(
    ("text", "clocks"),
    [
        (SHOWN, device.Clocks(gpu=306, gpu_max=918, memory=2133, memory_max=3199)),
        (LOCKED, device.Clocks(gpu=306, gpu_max=918, memory=2133, memory_max=3199, locked=True)),
        ("GPU MinFreq=1 MaxFreq=2", device.Clocks()),
        ("", device.Clocks()),
    ],
)
def test_a_jetsons_clocks(text: str, clocks: device.Clocks) -> None:
    assert device.parse_jetson_clocks(text) == clocks


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n", "MODE_15W_6CORE"),
        ("NVPM VERB: Current mode: NV Power Mode: 25W\n1\nNVPM VERB: PARAM CPU_ONLINE: ARG CORE_0", "25W"),
        ("NVPM ERROR: failed to read PARAM", ""),
    ],
)
def test_the_power_mode(text: str, mode: str) -> None:
    assert device.parse_nvpmodel(text) == mode


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (
            "1980, 1980, 2619, 2619, 118.32, 700.00, 0x0000000000000000\n",
            "GPU at 1980 of 1980 MHz, memory at 2619 of 2619 MHz, 118 of 700 W",
        ),
        (
            "345, 1980, 2619, 2619, 68.51, 700.00, 0x0000000000000001\n",
            "GPU at 345 of 1980 MHz, memory at 2619 of 2619 MHz, 69 of 700 W",
        ),
        (
            "1410, 1980, 2619, 2619, 699.8, 700.00, 0x0000000000000024\n1, 2",
            "GPU at 1410 of 1980 MHz, memory at 2619 of 2619 MHz, 700 of 700 W, throttled by power, heat",
        ),
        ("[N/A], [N/A], [N/A], [N/A], [Not Supported], [N/A], [N/A]", "unknown"),
        ("No devices were found", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_clocks_that_nvidia_smi_reports(text: str, reported: str) -> None:
    assert str(device.parse_smi_clocks(text)) == reported


def test_clocks_come_from_a_jetsons_own_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"nvpmodel": "NV Power Mode: 25W\n1", "jetson_clocks": SHOWN}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n/bin/cat <<'E'\n{text}\nE\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(device.clocks()) == "power mode 25W, GPU at 306 of 918 MHz, memory at 2133 of 3199 MHz"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert str(device.clocks()) == "unknown"


def test_this_machine() -> None:
    machine = device.probe()
    assert machine.arch == platform.machine() and machine.python == platform.python_version()
    assert machine.cores >= 1 and machine.memory > 1 << 20
    assert 0 < device.available_memory() <= machine.memory
    assert 0 < device.peak_memory() < machine.memory
