"""Which Jetson this is: release, board, Python and power mode, and whether edgesparse runs there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .system import Change, Failed, System


@dataclass(frozen=True)
class JetPack:
    """A release: the L4T it starts with, its system Python, its TensorRT, and the image that containers start from."""

    name: str
    python: tuple[int, int]
    tensorrt: str
    image: str = ""


JETPACKS = {
    "35": JetPack("5.1", (3, 8), "8.5.2"),
    "36.2": JetPack("6.0 preview", (3, 10), "8.6.2"),
    "36.3": JetPack("6.0", (3, 10), "8.6.2", "nvcr.io/nvidia/l4t-tensorrt:r8.6.2-devel"),
    "36.4": JetPack("6.1 or 6.2", (3, 10), "10.3.0", "nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel"),
    "36.5": JetPack("6.2.2", (3, 10), "10.3.0", "nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel"),
    "38": JetPack("7.0 or 7.1", (3, 12), "10.13.3"),
    "39": JetPack("7.2", (3, 12), "10.16.2", "nvcr.io/nvidia/tensorrt:26.04-py3"),
}
"""By the longest prefix of the L4T release, as in NVIDIA's release notes."""

FASTEST = ("MAXN", "MAXN_SUPER")


def release(system: System) -> str:
    """`36.4.3` from /etc/nv_tegra_release, or from the package where that file was lost; empty: no Jetson."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", system.read("/etc/nv_tegra_release"))
    if found:
        return f"{found[1]}.{found[2]}"
    version = system.ask("dpkg-query", "--show", "--showformat=${Version}", "nvidia-l4t-core") or ""
    return version.partition("-")[0]


def jetpack(l4t: str) -> JetPack | None:
    """The release that an L4T belongs to; None where it is none that edgesparse knows."""
    fitting = [key for key in JETPACKS if l4t == key or l4t.startswith(f"{key}.")]
    return JETPACKS[max(fitting, key=len)] if fitting else None


def recognise(system: System, any_machine: bool) -> Iterator[Change]:
    """JetPack, board and Python; nothing is changed. Refuses what edgesparse does not run on."""
    l4t, python = release(system), sys.version_info[:2]
    system.found.update(
        l4t=l4t,
        board=system.read("/proc/device-tree/model").strip("\0\n "),
        python="{}.{}".format(*python),
        package=system.ask("dpkg-query", "--show", "--showformat=${Version}", "nvidia-l4t-core") or "",
    )
    if l4t:
        _supported(system, l4t, python)
    elif not any_machine:
        raise Failed(
            "no Jetson: neither /etc/nv_tegra_release nor the package nvidia-l4t-core is there",
            "run this on the Jetson, or pass --any-machine for a machine that works through ONNX Runtime",
        )
    elif python < (3, 10):
        raise Failed("needed Python 3.10 or newer, found {}.{}".format(*python), "upgrade the system")
    return iter(())


def _supported(system: System, l4t: str, python: tuple[int, int]) -> None:
    known = jetpack(l4t)
    if known is None:
        raise Failed(f"L4T {l4t} is of no JetPack that edgesparse knows", "flash JetPack 6.2 or 7.2")
    system.found.update(jetpack=known.name, tensorrt_expected=known.tensorrt)
    if known.python < (3, 10):
        raise Failed(
            f"JetPack {known.name} has Python 3.8 and TensorRT's bindings for it alone; edgesparse needs 3.10",
            "flash JetPack 6.2 (SDK Manager, or NVIDIA's apt upgrade), then run this again",
        )
    if not known.image:
        raise Failed(f"JetPack {known.name} (L4T {l4t}) is not made for Orin", "flash JetPack 6.2 or 7.2")
    if known.python != python:
        raise Failed(
            "JetPack {} has Python {}.{}, and this runs on {}.{}".format(known.name, *known.python, *python),
            "run it with /usr/bin/python3: TensorRT's bindings are built for that one alone",
        )


def power(system: System, mode: str) -> Iterator[Change]:
    """The power mode: reported, and set where `mode` names one (as in /etc/nvpmodel.conf, or its number)."""
    said = system.ask("nvpmodel", "-q") or ""
    now = re.search(r"NV Power Mode:\s*(\S+)", said)
    system.found["power_mode"] = now[1] if now else ""
    if now and not mode and now[1] not in FASTEST:
        system.found["note"] = f"power mode {now[1]} is not the fastest: --power-mode MAXN (see /etc/nvpmodel.conf)"
    if not mode:
        return
    modes = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", system.read("/etc/nvpmodel.conf")))
    number = mode if mode in modes else next((key for key, name in modes.items() if name == mode), "")
    if not number:
        there = ", ".join(modes.values()) or "none: this machine has no nvpmodel"
        raise Failed(f"no power mode {mode}; there are {there}", "name one of these with --power-mode")
    if not now or now[1] != modes[number]:
        # Between some modes nvpmodel asks whether to restart now, and gets no answer: the step then does not hold.
        yield Change(
            f"power mode {modes[number]}, now {now[1] if now else 'unknown'}",
            lambda: system.run(
                "nvpmodel", "-m", number, remedy=f"sudo nvpmodel -m {number}, and let it restart the board"
            ),
        )
