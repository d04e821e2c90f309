"""One probe of the machine."""

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


STATE = "EDGESPARSE_STATE"
"""Environment variable that names the folder of what belongs to this device: key, timing caches."""


def state_folder() -> Path:
    """What EDGESPARSE_STATE names; else /var/lib/edgesparse for root, and XDG's state folder for others."""
    if said := os.environ.get(STATE):
        return Path(said).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/edgesparse")
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edgesparse"
    except RuntimeError:
        raise ConfigError(f"user {os.geteuid()} has no home folder: set {STATE} to a folder") from None


@lru_cache(1)
def probe() -> Machine:
    """Asks the system once; nvidia-smi, where there is one, takes some tenths of a second."""
    l4t = parse_l4t(_read("/etc/nv_tegra_release"))
    gpu, sm, driver = _nvidia_smi()
    # The device tree is hidden from containers, the SoC's own word for the board is not.
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
    """What keeps this process in a container, as `docker`; empty where nothing does."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    found = re.search(r"(?:^|\0)container=(\w+)", _read("/proc/1/environ"))
    return found[1] if found else ""


def tegra_kernel() -> bool:
    """Whether the kernel is a Jetson's: it tells so in a container too, where nothing else may."""
    return "tegra" in platform.release()


def available_memory() -> int:
    """Bytes that can be had without swapping (MemAvailable), which on Tegra is the GPU's memory too."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    return int(found[1]) * 1024 if found else 0


def peak_memory() -> int:
    """Bytes of RAM that this process has had at most (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _read("/proc/self/status"))
    return int(found[1]) * 1024 if found else 0


@dataclass(frozen=True)
class Clocks:
    """How fast the machine was set to run when it was asked. MHz and watts; 0 or empty where it does not tell.

    `mode`: nvpmodel's power mode. `locked`: whether the clocks stand at their highest (jetson_clocks). `held`: what
    held the GPU's clock down, as nvidia-smi says it ("power", "heat", ...).
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
        said = [f"power mode {self.mode}"] if self.mode else []
        said += [f"GPU at {self.gpu} of {self.gpu_max} MHz"] if self.gpu else []
        said += [f"memory at {self.memory} of {self.memory_max} MHz"] if self.memory else []
        said += ["clocks locked"] if self.locked else []
        said += [f"{self.watts:.0f} of {self.watts_limit:.0f} W"] if self.watts_limit else []
        said += [f"held down by {self.held}"] if self.held else []
        return ", ".join(said) or "unknown"


def clocks() -> Clocks:
    """Power mode and clocks as they are now; asked while the GPU works, they are those that a measurement ran at."""
    if shutil.which("nvpmodel"):
        said = parse_jetson_clocks(_output("jetson_clocks", "--show"))  # prints only for root on most releases
        said = said if said.gpu else _devfreq()
        return replace(said, mode=parse_nvpmodel(_output("nvpmodel", "-q")))
    ask = f"--query-gpu={','.join(_SMI_CLOCKS)}"
    return parse_smi_clocks(_output("nvidia-smi", ask, "--format=csv,noheader,nounits"))


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
"""NVML's throttle reasons; that the GPU is idle (0x1) is none."""


def parse_nvpmodel(text: str) -> str:
    """`MAXN_SUPER` from `NV Power Mode: MAXN_SUPER`, with or without warnings around it."""
    found = re.search(r"NV Power Mode:\s*(\S+)", text)
    return found[1] if found else ""


def parse_jetson_clocks(text: str) -> Clocks:
    """GPU and memory from `jetson_clocks --show`, which gives them in Hz."""
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
    """From one line of nvidia-smi's CSV without units; what it does not tell it writes in brackets."""
    fields = [field.strip() for field in text.partition("\n")[0].split(",")]
    if len(fields) != len(_SMI_CLOCKS):
        return Clocks()
    gpu, gpu_max, memory, memory_max, watts, limit = (_number(field) for field in fields[:-1])
    reasons = int(fields[-1], 16) if re.fullmatch(r"0x[0-9a-fA-F]+", fields[-1]) else 0
    held = ", ".join(name for name, bits in _HELD.items() if reasons & bits)
    return Clocks("", int(gpu), int(gpu_max), int(memory), int(memory_max), False, watts, limit, held)


def _devfreq() -> Clocks:
    """The GPU's clock of a Jetson from where every user may read it: 17000000.gpu, or .ga10b on JetPack 5."""
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
    """What a program prints, empty where there is none or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse_l4t(text: str) -> str:
    """`36.4.3` from `# R36 (release), REVISION: 4.3, ...`; empty when this is no Jetson."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def parse_cpu(text: str) -> str:
    found = re.search(r"model name\s*:\s*(.+)", text) or re.search(r"CPU part\s*:\s*(.+)", text)
    return found[1].strip() if found else ""


def _nvidia_smi() -> tuple[str, str, str]:
    rows = _output("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader").splitlines()
    # What it cannot tell it writes in brackets, as [N/A].
    fields = [re.sub(r"^\[.*\]$", "", field.strip()) for field in rows[0].split(",")] if rows else []
    return (fields[0], fields[1], fields[2]) if len(fields) == 3 else ("", "", "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
