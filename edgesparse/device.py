"""One probe of the machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What this machine is; empty where there is nothing to say. Memory in bytes."""

    model: str
    arch: str
    cpu: str
    cores: int
    memory: int
    gpu: str
    sm: str
    driver: str
    l4t: str
    jetpack: str
    python: str

    def named(self) -> dict[str, str]:
        """What is known, as text, for a manifest or a table."""
        return {key: str(value) for key, value in asdict(self).items() if value}


JETPACKS = {"35": "5.1", "36.3": "6.0", "36.4": "6.1 or 6.2", "36.5": "6.2.2", "38": "7.0 or 7.1", "39": "7.2"}
"""JetPack of an L4T release, by the longest prefix."""

JETSON_GPUS = {"Orin": "8.7", "Xavier": "7.2", "Thor": "11.0"}
"""Compute capability by a word of the board's name: nvidia-smi on older Jetsons does not tell."""


@lru_cache(1)
def probe() -> Machine:
    """Asks the system once; nvidia-smi, where there is one, takes some tenths of a second."""
    l4t = parse_l4t(_read("/etc/nv_tegra_release"))
    gpu, sm, driver = _nvidia_smi()
    model = _read("/proc/device-tree/model").strip("\0\n ")
    if l4t and not sm:
        gpu, sm = next(((name, sm) for name, sm in JETSON_GPUS.items() if name in model), ("", ""))
    return Machine(
        model=model,
        arch=platform.machine(),
        cpu=parse_cpu(_read("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=gpu,
        sm=sm,
        driver=driver,
        l4t=l4t,
        jetpack=next((JETPACKS[key] for key in sorted(JETPACKS, reverse=True) if l4t.startswith(key)), ""),
        python=platform.python_version(),
    )


def available_memory() -> int:
    """Bytes that can be had without swapping (MemAvailable), which on Tegra is the GPU's memory too."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    return int(found[1]) * 1024 if found else 0


def peak_memory() -> int:
    """Bytes of RAM that this process has had at most (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _read("/proc/self/status"))
    return int(found[1]) * 1024 if found else 0


def parse_l4t(text: str) -> str:
    """`36.4.3` from `# R36 (release), REVISION: 4.3, ...`; empty when this is no Jetson."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def parse_cpu(text: str) -> str:
    found = re.search(r"model name\s*:\s*(.+)", text) or re.search(r"CPU part\s*:\s*(.+)", text)
    return found[1].strip() if found else ""


def _nvidia_smi() -> tuple[str, str, str]:
    if shutil.which("nvidia-smi") is None:
        return "", "", ""
    ask = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        rows = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return "", "", ""
    # What it cannot tell it writes in brackets, as [N/A].
    fields = [re.sub(r"^\[.*\]$", "", field.strip()) for field in rows[0].split(",")] if rows else []
    return (fields[0], fields[1], fields[2]) if len(fields) == 3 else ("", "", "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
