"""How the board is: memory, temperature, power; from /proc and /sys, and from jetson-stats where that is installed."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("edgesparse.service")

ROOT = Path("/")
PLAUSIBLE = range(-40, 151)
"""Degrees that a working sensor gives; zones that are switched off read -256 on Orin."""


@dataclass(frozen=True)
class Reading:
    """Bytes, degrees Celsius, watts; None where the machine does not tell."""

    available: int | None = None
    """Memory that can be had without swapping."""
    resident: int | None = None
    """Memory of this process."""
    temperatures: tuple[tuple[str, float], ...] = ()
    """Of each zone."""
    watts: float | None = None
    """What the whole board takes."""

    @property
    def hottest(self) -> tuple[str, float] | None:
        return max(self.temperatures, key=lambda zone: zone[1], default=None)


class Board:
    """Reads the machine again and again, with few system calls. `root` stands for / in tests."""

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
            _kilobytes(_text(self._root / "proc/meminfo"), "MemAvailable"),
            _kilobytes(_text(self._root / "proc/self/status"), "VmRSS"),
            tuple(self._temperatures()),
            power if power is not None else self._watts(),
        )

    def _temperatures(self) -> list[tuple[str, float]]:
        read = ((name, _number(path)) for name, path in self._zones)
        return [(name, value / 1000) for name, value in read if value is not None and int(value / 1000) in PLAUSIBLE]

    def _watts(self) -> float | None:
        found = [_rail_watts(*rail) for rail in self._rails]
        known = [watts for watts in found if watts is not None]
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


def _sorted(root: Path, kind: str, pattern: str) -> list[Path]:
    return sorted((root / "sys/class" / kind).glob(pattern), key=lambda path: (len(path.name), path.name))


def _rails(root: Path) -> list[tuple[Path, Path]]:
    """Voltage and current of the board's input: VDD_IN on Orin's modules, the sum of the GPU's, CPU's and carrier's
    rails on AGX Orin, which has no such sensor (INA3221, hwmon: millivolts and milliamperes)."""
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
    found = _number(volts), _number(amperes)
    return None if found[0] is None or found[1] is None else found[0] * found[1] / 1e6


def _jtop() -> Any:
    """jetson-stats' client, where it is installed and its daemon answers."""
    try:
        import jtop
    except ImportError:
        return None
    try:
        client = jtop.jtop()
        client.start()
    except Exception as error:  # jetson-stats raises its own kinds, which differ from release to release
        log.info("jetson-stats is installed and does not answer (%s): reading /sys", error)
        return None
    return client


def _kilobytes(text: str, key: str) -> int | None:
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


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
