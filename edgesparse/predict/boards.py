"""Jetson boards and the capabilities of their GPUs, from boards.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from edgesparse.errors import ConfigError


@dataclass(frozen=True)
class GpuClass:
    """One GPU generation. `compute_capability`: for example "8.7". `macs_per_sm_clock`: multiply-accumulates per SM and
    clock on the tensor cores, by precision. `cuda_cores`: per SM. `sparse_speedup`: maximum speedup of 2:4; 1: no
    sparse tensor cores.
    """

    name: str
    compute_capability: str
    macs_per_sm_clock: Mapping[str, int]
    cuda_cores: int
    sparse_speedup: float


@dataclass(frozen=True)
class Board:
    """One board in one power mode. `memory_gb` in GB, clocks in MHz, `bus_bits` the width of its memory bus.

    `sure`: whether the clocks were verified against their source.
    """

    name: str
    mode: str
    gpu: GpuClass
    memory_gb: int
    bus_bits: int
    sms: int
    gpu_mhz: float
    emc_mhz: float
    sure: bool = True

    @property
    def bandwidth(self) -> float:
        """Peak memory bandwidth in bytes per second."""
        return self.bus_bits / 8 * 2 * self.emc_mhz * 1e6

    def rate(self, precision: str, sparse: bool = False) -> float:
        """Return the tensor cores' peak multiply-accumulates per second in `fp32` (as TF32), `fp16` or `int8`."""
        speedup = self.gpu.sparse_speedup if sparse else 1
        return self.gpu.macs_per_sm_clock[precision] * self.sms * self.gpu_mhz * 1e6 * speedup

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return {name: value for name, value in vars(self).items() if name != "gpu"}

    def __str__(self) -> str:
        unsure = "" if self.sure else ", clocks not certain"
        return f"{self.name} in {self.mode} ({self.gpu_mhz:g} MHz, {self.bandwidth / 1e9:.0f} GB/s{unsure})"


@dataclass(frozen=True)
class Fitted:
    """How much of the peak rates an engine achieves: shares of the tensor cores' rate (`math`), of the CUDA cores' in
    depthwise convolutions (`depthwise`) and of the memory bandwidth (`memory`); and the GPU clocks that each fused
    layer costs regardless of its size (`layer_clocks`).
    """

    math: float
    depthwise: float
    memory: float
    layer_clocks: float


@dataclass(frozen=True)
class PredictionError:
    """The error of predicted latencies in percent, on measured ones that were not used in the fit."""

    n: int
    median_error_percent: float
    p90_error_percent: float

    def __str__(self) -> str:
        return f"median error {self.median_error_percent} %, 90th percentile {self.p90_error_percent} %"


def board(name: str) -> Board:
    """Return the board `name`: `orin-nano-8gb` (its fastest mode) or `orin-nano-8gb:15W`. Raises ConfigError, which
    lists the boards or modes.
    """
    known: dict[str, dict[str, Any]] = _sheet()["boards"]
    kind, colon, mode = name.partition(":")
    if kind not in known:
        near = get_close_matches(kind, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"no board {kind!r} in boards.yaml: {hint}")
    row = dict(known[kind])
    modes, gpu = row.pop("modes"), row.pop("gpu")
    mode = mode if colon else next(iter(modes))
    if mode not in modes:
        raise ConfigError(f"{kind} has no mode {mode!r}: {', '.join(modes)}")
    return Board(kind, mode, GpuClass(gpu, **_sheet()["gpus"][gpu]), **row, **modes[mode])


def board_names() -> tuple[str, ...]:
    return tuple(_sheet()["boards"])


def fitted() -> Fitted:
    return Fitted(**_sheet()["fitted"])


def held_out() -> PredictionError:
    return PredictionError(**_sheet()["held_out"])


@lru_cache(1)
def _sheet() -> dict[str, Any]:
    text = (files("edgesparse.predict") / "boards.yaml").read_text(encoding="utf-8")
    sheet: dict[str, Any] = yaml.safe_load(text)
    return sheet
