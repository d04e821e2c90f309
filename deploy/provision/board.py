"""The board: JetPack release, Python and power mode, and whether edgesparse supports them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .system import Change, StepFailed, System


@dataclass(frozen=True)
class JetPack:
    """A release: its name, system Python, TensorRT, and base image of containers (empty where Orin is unsupported)."""

    name: str
    python: tuple[int, int]
    tensorrt: str
    image: str = ""


X86_IMAGE = "nvcr.io/nvidia/tensorrt:26.04-py3"
"""NVIDIA's image for x86-64 and, since JetPack 7.2, for Jetson too."""

JETPACKS = {
    "35": JetPack("5.1", (3, 8), "8.5.2"),
    "36.2": JetPack("6.0 preview", (3, 10), "8.6.2"),
    "36.3": JetPack("6.0", (3, 10), "8.6.2", "nvcr.io/nvidia/l4t-tensorrt:r8.6.2-devel"),
    "36.4": JetPack("6.1 or 6.2", (3, 10), "10.3.0", "nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel"),
    "36.5": JetPack("6.2.2", (3, 10), "10.3.0", "nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel"),
    "38": JetPack("7.0 or 7.1", (3, 12), "10.13.3"),
    "39": JetPack("7.2", (3, 12), "10.16.2", X86_IMAGE),
}
"""JetPack by the longest prefix of the L4T release, from NVIDIA's release notes."""

FASTEST = ("MAXN", "MAXN_SUPER")


def release(system: System) -> str:
    """Return the L4T release, such as 36.4.3, from /etc/nv_tegra_release or the package; empty if not a Jetson."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", system.read("/etc/nv_tegra_release"))
    if match:
        return f"{match[1]}.{match[2]}"
    version = system.output("dpkg-query", "--show", "--showformat=${Version}", "nvidia-l4t-core") or ""
    return version.partition("-")[0]


def jetpack(l4t: str) -> JetPack | None:
    """Return the JetPack of an L4T release, or None if it is unknown."""
    matching = [key for key in JETPACKS if l4t == key or l4t.startswith(f"{key}.")]
    return JETPACKS[max(matching, key=len)] if matching else None


def recognize(system: System, any_machine: bool) -> Iterator[Change]:
    """Check JetPack, board and Python. Changes nothing; raises StepFailed for what edgesparse does not support."""
    l4t, python = release(system), sys.version_info[:2]
    system.facts.update(
        l4t=l4t,
        board=system.read("/proc/device-tree/model").strip("\0\n "),
        python="{}.{}".format(*python),
        package=system.output("dpkg-query", "--show", "--showformat=${Version}", "nvidia-l4t-core") or "",
    )
    if l4t:
        _supported(system, l4t, python)
    elif not any_machine:
        raise StepFailed(
            "not a Jetson: neither /etc/nv_tegra_release nor the package nvidia-l4t-core exists",
            "run this on the Jetson, or pass --any-machine to use ONNX Runtime on another machine",
        )
    elif python < (3, 10):
        raise StepFailed("needed Python 3.10 or newer, found {}.{}".format(*python), "upgrade the system")
    return iter(())


def _supported(system: System, l4t: str, python: tuple[int, int]) -> None:
    known = jetpack(l4t)
    if known is None:
        raise StepFailed(f"L4T {l4t} does not belong to a JetPack that edgesparse supports", "flash JetPack 6.2 or 7.2")
    system.facts.update(jetpack=known.name, tensorrt_expected=known.tensorrt)
    if known.python < (3, 10):
        raise StepFailed(
            f"JetPack {known.name} has Python 3.8, and TensorRT's bindings only for that; edgesparse needs 3.10",
            "flash JetPack 6.2 (SDK Manager, or NVIDIA's apt upgrade), then run this again",
        )
    if not known.image:
        raise StepFailed(f"JetPack {known.name} (L4T {l4t}) does not support Orin", "flash JetPack 6.2 or 7.2")
    if known.python != python:
        raise StepFailed(
            "JetPack {} has Python {}.{}, and this is {}.{}".format(known.name, *known.python, *python),
            "run it with /usr/bin/python3: TensorRT's bindings are only built for that",
        )


def power(system: System, mode: str) -> Iterator[Change]:
    """Report the power mode, and set it if `mode` is a name or number in /etc/nvpmodel.conf."""
    output = system.output("nvpmodel", "-q") or ""
    now = re.search(r"NV Power Mode:\s*(\S+)", output)
    system.facts["power_mode"] = now[1] if now else ""
    if now and not mode and now[1] not in FASTEST:
        system.facts["note"] = f"power mode {now[1]} is not the fastest: --power-mode MAXN (see /etc/nvpmodel.conf)"
    if not mode:
        return
    modes = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", system.read("/etc/nvpmodel.conf")))
    number = mode if mode in modes else next((key for key, name in modes.items() if name == mode), "")
    if not number:
        known = ", ".join(modes.values()) or "none: this machine has no nvpmodel"
        raise StepFailed(f"no power mode {mode}; known here are {known}", "name one of these with --power-mode")
    if not now or now[1] != modes[number]:
        # Between some modes nvpmodel asks whether to restart now. It gets no answer, and the mode is not changed.
        yield Change(
            f"power mode {modes[number]}, now {now[1] if now else 'unknown'}",
            lambda: system.run(
                "nvpmodel", "-m", number, remedy=f"sudo nvpmodel -m {number}, and let it restart the board"
            ),
        )
