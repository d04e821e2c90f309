"""This machine's hardware, software, memory, clocks and power mode."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from edgesparse.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """Properties of this machine; empty where unknown. `memory` is in bytes."""

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
        """Return the known properties as text, for a manifest or a table."""
        return {key: str(value) for key, value in asdict(self).items() if value}


JETPACKS = {"35": "5.1", "36.3": "6.0", "36.4": "6.1 or 6.2", "36.5": "6.2.2", "38": "7.0 or 7.1", "39": "7.2"}
"""JetPack release by the longest matching prefix of the L4T release."""

JETSON_GPUS = {"Orin": "8.7", "Xavier": "7.2", "Thor": "11.0"}
"""Compute capability by a word in the board's name: nvidia-smi on older Jetsons does not report it."""


STATE = "EDGESPARSE_STATE"
"""Environment variable with the folder for the device's own data: its key, timing caches, reports."""


def state_folder() -> Path:
    """Return EDGESPARSE_STATE; by default /var/lib/edgesparse for root, and XDG's state folder for other users.

    Raises ConfigError for a user without a home folder, and for root where the folder is another user's.
    """
    folder = os.environ.get(STATE)
    if os.geteuid() == 0:
        return _of_root(Path(folder or "/var/lib/edgesparse").absolute())
    if folder:
        return Path(folder).absolute()
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edgesparse"
    except RuntimeError:
        raise ConfigError(f"user {os.geteuid()} has no home folder: set {STATE} to a folder") from None


def _of_root(folder: Path) -> Path:
    """Refuse a folder of another user, who could make root read, write and load what is not root's."""
    try:
        owner = folder.stat().st_uid
    except OSError:
        return folder
    if owner:
        raise ConfigError(
            f"{folder} belongs to user {owner}: run this as that user (sudo -u '#{owner}' ...), or name another "
            f"folder in {STATE}"
        )
    return folder


@lru_cache(1)
def probe() -> Machine:
    """Query the system; the result is cached. nvidia-smi, if present, takes a few tenths of a second."""
    l4t = parse_l4t(_read("/etc/nv_tegra_release"))
    gpu, sm, driver = _nvidia_smi()
    # The device tree is hidden from containers; the SoC's name is not.
    model = (_read("/proc/device-tree/model") or _read("/sys/devices/soc0/machine")).strip("\0\n ")
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


def container() -> str:
    """Return the container runtime that this process runs in, such as `docker`; empty outside a container."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    match = re.search(r"(?:^|\0)container=(\w+)", _read("/proc/1/environ"))
    return match[1] if match else ""


def tegra_kernel() -> bool:
    """Return whether the kernel is a Jetson's. This works in containers too, where other signs may be missing."""
    return "tegra" in platform.release()


def available_memory() -> int:
    """Return the bytes that can be allocated without swapping (MemAvailable). On Tegra the GPU shares them."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    return int(match[1]) * 1024 if match else 0


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes (VmHWM)."""
    match = re.search(r"VmHWM:\s+(\d+) kB", _read("/proc/self/status"))
    return int(match[1]) * 1024 if match else 0


@dataclass(frozen=True)
class Clocks:
    """Clocks in MHz and power in watts at one moment; 0 or empty where unknown.

    `mode`: nvpmodel's power mode. `locked`: whether the clocks are fixed at their maximum (jetson_clocks). `held`: what
    throttles the GPU, as reported by nvidia-smi ("power", "heat", ...).
    """

    mode: str = ""
    gpu: int = 0
    gpu_max: int = 0
    memory: int = 0
    memory_max: int = 0
    locked: bool = False
    watts: float = 0.0
    watts_limit: float = 0.0
    held: str = ""

    def __str__(self) -> str:
        parts = [f"power mode {self.mode}"] if self.mode else []
        parts += [f"GPU at {self.gpu} of {self.gpu_max} MHz"] if self.gpu else []
        parts += [f"memory at {self.memory} of {self.memory_max} MHz"] if self.memory else []
        parts += ["clocks locked"] if self.locked else []
        parts += [f"{self.watts:.0f} of {self.watts_limit:.0f} W"] if self.watts_limit else []
        parts += [f"throttled by {self.held}"] if self.held else []
        return ", ".join(parts) or "unknown"


def clocks() -> Clocks:
    """Return the current power mode and clocks. Call it while the GPU works to get those of the measurement."""
    if shutil.which("nvpmodel"):
        current = parse_jetson_clocks(_output("jetson_clocks", "--show"))  # on most releases it prints only for root
        current = current if current.gpu else _devfreq()
        return replace(current, mode=parse_nvpmodel(_output("nvpmodel", "-q")))
    query = f"--query-gpu={','.join(_SMI_CLOCKS)}"
    return parse_smi_clocks(_output("nvidia-smi", query, "--format=csv,noheader,nounits"))


_SMI_CLOCKS = (
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "power.draw",
    "power.limit",
    "clocks_throttle_reasons.active",
)
_HELD = {"power": 0x4 | 0x80, "heat": 0x20 | 0x40, "hardware": 0x8, "a set limit": 0x2}
"""Bits of NVML's throttle reasons; an idle GPU (0x1) is not throttled."""


def parse_nvpmodel(text: str) -> str:
    """Return `MAXN_SUPER` for `NV Power Mode: MAXN_SUPER`, with or without warnings around it."""
    match = re.search(r"NV Power Mode:\s*(\S+)", text)
    return match[1] if match else ""


def parse_jetson_clocks(text: str) -> Clocks:
    """Return the clocks of GPU and memory from the output of `jetson_clocks --show`, which is in Hz."""
    row = r"^\s*{}\s+MinFreq=(\d+)\s+MaxFreq=(\d+)\s+CurrentFreq=(\d+)(?:\s+FreqOverride=(\d))?"
    gpu = re.search(row.format("GPU"), text, re.M)
    memory = re.search(row.format("EMC"), text, re.M)
    if gpu is None:
        return Clocks()
    return Clocks(
        gpu=int(gpu[3]) // 10**6,
        gpu_max=int(gpu[2]) // 10**6,
        memory=int(memory[3]) // 10**6 if memory else 0,
        memory_max=int(memory[2]) // 10**6 if memory else 0,
        locked=gpu[1] == gpu[2] and (memory is None or memory[4] != "0"),
    )


def parse_smi_clocks(text: str) -> Clocks:
    """Return clocks and power from a line of nvidia-smi's CSV without units, where unknown values are in brackets."""
    fields = [field.strip() for field in text.partition("\n")[0].split(",")]
    if len(fields) != len(_SMI_CLOCKS):
        return Clocks()
    gpu, gpu_max, memory, memory_max, watts, limit = (_number(field) for field in fields[:-1])
    reasons = int(fields[-1], 16) if re.fullmatch(r"0x[0-9a-fA-F]+", fields[-1]) else 0
    held = ", ".join(name for name, bits in _HELD.items() if reasons & bits)
    return Clocks("", int(gpu), int(gpu_max), int(memory), int(memory_max), False, watts, limit, held)


def _devfreq() -> Clocks:
    """Return the GPU clock of a Jetson from a file that any user may read: 17000000.gpu, or .ga10b on JetPack 5."""
    for folder in sorted(Path("/sys/class/devfreq").glob("*.g[pa]*")):
        low, high, now = (int(_number(_read(str(folder / f"{name}_freq")))) for name in ("min", "max", "cur"))
        if now:
            return Clocks(gpu=now // 10**6, gpu_max=high // 10**6, locked=low == high)
    return Clocks()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _output(*command: str) -> str:
    """Return the output of a program; empty if it does not exist or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse_l4t(text: str) -> str:
    """Return `36.4.3` for `# R36 (release), REVISION: 4.3, ...`; empty if this is not a Jetson."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else ""


def parse_cpu(text: str) -> str:
    """Return the CPU's name from /proc/cpuinfo."""
    match = re.search(r"model name\s*:\s*(.+)", text) or re.search(r"CPU part\s*:\s*(.+)", text)
    return match[1].strip() if match else ""


def _nvidia_smi() -> tuple[str, str, str]:
    rows = _output("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader").splitlines()
    # Unknown values are in brackets, such as [N/A].
    fields = [re.sub(r"^\[.*\]$", "", field.strip()) for field in rows[0].split(",")] if rows else []
    return (fields[0], fields[1], fields[2]) if len(fields) == 3 else ("", "", "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
