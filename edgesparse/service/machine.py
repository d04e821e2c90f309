"""The board's memory, temperature and power, from /proc and /sys, and from jetson-stats if installed."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("edgesparse.service")

ROOT = Path("/")
PLAUSIBLE = range(-40, 151)
"""Plausible degrees Celsius of a working sensor; on Orin, zones that are powered off report -256."""


@dataclass(frozen=True)
class Reading:
    """In bytes, degrees Celsius and watts; None for what the machine does not report."""

    available: int | None = None
    """Memory available without swapping (MemAvailable)."""
    resident: int | None = None
    """Resident memory of this process."""
    temperatures: tuple[tuple[str, float], ...] = ()
    """Name and temperature of each thermal zone."""
    watts: float | None = None
    """Power of the whole board."""

    @property
    def hottest(self) -> tuple[str, float] | None:
        return max(self.temperatures, key=lambda zone: zone[1], default=None)


class Sensors:
    """Reads the sensors repeatedly, with few system calls. `root` replaces / in tests."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._zones = [
            (_text(zone / "type") or zone.name, zone / "temp") for zone in _sorted(root, "thermal", "thermal_zone*")
        ]
        self._rails = _rails(root)
        self._jtop = _jtop() if root == ROOT else None

    def read(self) -> Reading:
        power = self._jtop_watts()
        return Reading(
            *read_memory(self._root),
            tuple(self._temperatures()),
            power if power is not None else self._watts(),
        )

    def _temperatures(self) -> list[tuple[str, float]]:
        read = ((name, _number(path)) for name, path in self._zones)
        degrees = [(name, value / 1000) for name, value in read if value is not None]
        return [(name, value) for name, value in degrees if int(value) in PLAUSIBLE]

    def _watts(self) -> float | None:
        readings = [_rail_watts(*rail) for rail in self._rails]
        known = [watts for watts in readings if watts is not None]
        return round(sum(known), 3) if known else None

    def _jtop_watts(self) -> float | None:
        try:
            return None if self._jtop is None else float(self._jtop.power["tot"]["power"]) / 1000
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def close(self) -> None:
        jtop, self._jtop = self._jtop, None
        if jtop is not None:
            jtop.close()


def read_memory(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Return the memory available without swapping, and the resident memory of this process, in bytes."""
    available = _kilobytes(_text(root / "proc/meminfo"), "MemAvailable")
    return available, _kilobytes(_text(root / "proc/self/status"), "VmRSS")


def _sorted(root: Path, kind: str, pattern: str) -> list[Path]:
    return sorted((root / "sys/class" / kind).glob(pattern), key=lambda path: (len(path.name), path.name))


def _rails(root: Path) -> list[tuple[Path, Path]]:
    """Return the files with voltage and current of the board's input (INA3221 in hwmon: millivolts, milliamperes).

    That is VDD_IN on most Orin modules. AGX Orin has no such sensor: its power is the sum of the GPU's, CPU's and
    carrier's rails.
    """
    rails = {}
    for monitor in _sorted(root, "hwmon", "hwmon*"):
        if _text(monitor / "name") == "ina3221":
            for label in sorted(monitor.glob("in*_label")):
                number = label.name[2:].partition("_")[0]
                rails[_text(label)] = (monitor / f"in{number}_input", monitor / f"curr{number}_input")
    if "VDD_IN" in rails:
        return [rails["VDD_IN"]]
    return [files for name, files in rails.items() if name and not name.startswith(("NC", "sum"))]


def _rail_watts(volts: Path, amperes: Path) -> float | None:
    millivolts, milliamperes = _number(volts), _number(amperes)
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _jtop() -> Any:
    """Return the client of jetson-stats, if it is installed and its daemon answers."""
    try:
        import jtop
    except ImportError:
        return None
    try:
        client = jtop.jtop()
        client.start()
    except Exception as error:  # jetson-stats raises different types in each release
        log.info("jetson-stats is installed but does not answer (%s): reading /sys", error)
        return None
    return client


def _kilobytes(text: str, key: str) -> int | None:
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
