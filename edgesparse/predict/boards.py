"""Jetson Orin boards and what their GPU can do, from boards.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from edgesparse.errors import ConfigError


@dataclass(frozen=True)
class Board:
    """One board in one power mode. `memory_gb` in GB, clocks in MHz, `bus_bits` the width of its memory."""

    name: str
    mode: str
    memory_gb: int
    bus_bits: int
    sms: int
    gpu_mhz: float
    emc_mhz: float
    sure: bool = True

    @property
    def bandwidth(self) -> float:
        """Bytes a second that the memory moves at most."""
        return self.bus_bits / 8 * 2 * self.emc_mhz * 1e6

    def rate(self, precision: str, sparse: bool = False) -> float:
        """Multiply-accumulates a second of the tensor cores in `fp32` (as TF32), `fp16` or `int8`."""
        per_clock: int = _sheet()["macs_per_sm_clock"][precision]
        return per_clock * self.sms * self.gpu_mhz * 1e6 * (2 if sparse else 1)

    def __str__(self) -> str:
        unsure = "" if self.sure else ", clocks not certain"
        return f"{self.name} in {self.mode} ({self.gpu_mhz:g} MHz, {self.bandwidth / 1e9:.0f} GB/s{unsure})"


def board(name: str) -> Board:
    """The board called `name`, as `orin-nano-8gb` (its fastest mode) or `orin-nano-8gb:15W`.

    Raises ConfigError naming the boards or modes there are.
    """
    known = _sheet()["boards"]
    wanted, _, mode = name.partition(":")
    if wanted not in known:
        near = get_close_matches(wanted, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"no board {wanted!r} in boards.yaml: {hint}")
    sheet = dict(known[wanted])
    modes = sheet.pop("modes")
    mode = mode or next(iter(modes))
    if mode not in modes:
        raise ConfigError(f"{wanted} has no mode {mode!r}: {', '.join(modes)}")
    return Board(wanted, mode, **sheet, **modes[mode])


def board_names() -> tuple[str, ...]:
    return tuple(_sheet()["boards"])


def fitted() -> dict[str, float]:
    """What an engine reaches of the rates on paper: `math` and `memory` as shares, `layer_clocks` a fused layer."""
    return dict(_sheet()["fitted"])


@lru_cache(1)
def _sheet() -> dict[str, Any]:
    text = (files("edgesparse.predict") / "boards.yaml").read_text(encoding="utf-8")
    sheet: dict[str, Any] = yaml.safe_load(text)
    return sheet
