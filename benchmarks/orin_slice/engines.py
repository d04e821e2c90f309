"""Engines of TensorRT 8.5 built in the current context, held to kernels that an Orin has.

Kernel names begin with the GPU generation that they were written for. An Orin (8.7) runs sm80 and sm86 kernels and no
sm90 one. An IAlgorithmSelector keeps Hopper's own kernels out: it removes the tactics that verbose builds named sm90.
(Reporting compute capability 8.0 to TensorRT does not work: it then loads code for that GPU, which a Hopper cannot
run.)
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesparse.backends.tensorrt.inspect import layers
from edgesparse.backends.tensorrt.log import BuildLog

HOPPER = re.compile(r"sm90|cutlass_90|hopper", re.I)
_TACTIC = re.compile(r"Tactic Name: (\S+) Tactic: (0x[0-9a-f]+|-?\d+)")
_TIME = re.compile(r"Tactic: (0x[0-9a-f]+|-?\d+) Time: ([0-9.e-]+)")
MASK = 2**64 - 1
COPIES, FAST_COPY = {0, 0x3E8, 0x3EA}, 0x3EA
"""Tactic ids of the reformatting copies; the last is the fastest nearly always."""
SLACK = 1.1
MOST_NEW, MOST_UNNAMED = 8, 4
WIDE_RANGE = 4.0
"""INT8 range of every tensor of networks with random weights: it has no part in the time."""


@dataclass
class Tactics:
    """What verbose builds print of TensorRT's tactics, and a selector that removes some of them by it.

    An algorithm selector costs the timing cache: TensorRT 8.5 then times every tactic of every layer again. With
    `shortlist`, what lost everywhere so far is therefore not timed again, and copies between formats are not timed at
    all. An engine may then miss the best kernel of a layer by SLACK.
    """

    shortlist: bool = True
    names: dict[int, str] = field(default_factory=dict)
    """Kernels by tactic id."""
    good: set[int] = field(default_factory=set)
    """Tactics that came within SLACK of the fastest for some layer and format."""

    def learn(self, log: str) -> None:
        for name, text in _TACTIC.findall(log):
            self.names[int(text, 0) & MASK] = name
        for runner in log.split("Timing Runner:")[1:]:
            times = {int(tactic, 0) & MASK: float(ms) for tactic, ms in _TIME.findall(runner)}
            best = min(times.values(), default=0.0)
            self.good |= {tactic for tactic, ms in times.items() if ms <= SLACK * best}

    @property
    def hopper(self) -> set[int]:
        return {tactic for tactic, name in self.names.items() if HOPPER.search(name)}

    def keep(self, ids: list[int], hopper: set[int]) -> list[int]:
        """Positions of the tactics that may be used; all of them where only Hopper's own kernels are offered."""
        kept = [i for i, tactic in enumerate(ids) if tactic not in hopper] or list(range(len(ids)))
        if not self.shortlist:
            return kept
        if set(ids) <= COPIES:
            return [i for i in kept if ids[i] == FAST_COPY] or kept[:1]
        if not any(ids[i] in self.names for i in kept):
            return kept[:MOST_UNNAMED]
        known = [i for i in kept if ids[i] in self.good]
        new = [i for i in kept if ids[i] not in self.names]
        return [*known, *new[:MOST_NEW]] or kept[:MOST_NEW]

    def selector(self, trt: Any) -> Any:
        hopper, owner = self.hopper, self

        class Selector(trt.IAlgorithmSelector):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IAlgorithmSelector.__init__(self)

            def select_algorithms(self, context: Any, choices: list[Any]) -> list[int]:
                return owner.keep([choice.algorithm_variant.tactic & MASK for choice in choices], hopper)

            def report_algorithms(self, contexts: list[Any], choices: list[Any]) -> None:
                return

        return Selector()


@dataclass(frozen=True)
class Options:
    """How to build: `precision` fp32, fp16 or int8 (weak types, every range set, unless the model has Q/DQ)."""

    precision: str
    sparse: bool = False
    qdq: bool = False
    heuristic: bool = False
    """TensorRT's own shortcut: tactics are ranked before they are timed."""
    jit: bool = True
    """Whether convolutions may be compiled together with what follows them (SiLU), which takes most of a build."""


@dataclass(frozen=True)
class Built:
    """`kernels`: name and sparse kernel or not of each layer; `hopper`: how many of them are Hopper's own."""

    engine: Any
    seconds: float
    kernels: tuple[tuple[str, str, bool], ...]
    eligible: int
    picked: int

    @property
    def hopper(self) -> int:
        return sum(bool(HOPPER.search(kernel)) for _, kernel, _ in self.kernels)

    @property
    def sparse(self) -> int:
        return sum(sparse for _, _, sparse in self.kernels)

    def as_dict(self) -> dict[str, Any]:
        families: dict[str, int] = {}
        for _, kernel, _ in self.kernels:
            result = re.match(r"(sm\d+|[A-Za-z]+)", kernel)
            family = result[1] if result else "other"
            families[family] = families.get(family, 0) + 1
        return {
            "build_s": round(self.seconds, 1),
            "layers": len(self.kernels),
            "sparse_kernels": self.sparse,
            "sm90_kernels": self.hopper,
            "eligible": self.eligible,
            "kernels": families,
        }


class Builder:
    """Builds in one process with one timing cache; everything that TensorRT prints goes to `log`, then is read."""

    def __init__(self, trt: Any, folder: Path, cache: str, tactics: Tactics | None = None) -> None:
        self._trt, self._folder, self._tactics = trt, folder, tactics
        self._logger = trt.Logger(trt.Logger.VERBOSE)
        self._cache = folder / f"{cache}.timing"
        self._runtime = trt.Runtime(self._logger)
        self._kept: list[Any] = []

    def build(self, onnx: bytes, options: Options) -> Built:
        """Raises RuntimeError with TensorRT's last error."""
        log = self._folder / "build.log"
        start = time.perf_counter()
        with _printed_to(log):
            plan = self._plan(onnx, options)
        text = log.read_text(errors="replace")
        if plan is None:
            errors = re.findall(r"\[E\] (.*)", text)
            raise RuntimeError(errors[-1][:300] if errors else "TensorRT gave no plan and no reason")
        seconds = time.perf_counter() - start
        if self._tactics is not None:
            self._tactics.learn(text)
        sparsity = BuildLog()
        for line in text.splitlines():
            if "(Sparsity)" in line:
                sparsity.take("INFO", line[line.index("(Sparsity)") :])
        with _printed_to(self._folder / "load.log"):
            engine = self._runtime.deserialize_cuda_engine(plan)
            result = layers(self._trt, engine)
        kernels = tuple((layer.name, layer.kernel, layer.sparse) for layer in result)
        return Built(engine, seconds, kernels, len(sparsity.eligible), len(sparsity.picked))

    def _plan(self, onnx: bytes, options: Options) -> Any:
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(onnx):
            raise RuntimeError(f"cannot be parsed: {parser.get_error(0).desc()[:300]}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        sources = 1 << int(trt.TacticSource.EDGE_MASK_CONVOLUTIONS)
        sources |= (1 << int(trt.TacticSource.JIT_CONVOLUTIONS)) if options.jit else 0
        config.set_tactic_sources(sources)
        config.avg_timing_iterations = config.min_timing_iterations = 1
        flags = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}[options.precision]
        flags += ("SPARSE_WEIGHTS",) if options.sparse else ()
        flags += ("ENABLE_TACTIC_HEURISTIC",) if options.heuristic else ()
        for flag in flags:
            config.set_flag(getattr(trt.BuilderFlag, flag))
        if options.precision == "int8" and not options.qdq:
            _set_ranges(network)
        if self._tactics is not None:
            self._kept.append(self._tactics.selector(trt))
            config.algorithm_selector = self._kept[-1]
        held = self._cache.read_bytes() if self._cache.exists() else b""
        cache = config.create_timing_cache(held)
        config.set_timing_cache(cache, ignore_mismatch=True)
        plan = builder.build_serialized_network(network, config)
        if plan is not None:
            self._cache.write_bytes(memoryview(config.get_timing_cache().serialize()))
        return plan


def _set_ranges(network: Any) -> None:
    for i in range(network.num_inputs):
        network.get_input(i).dynamic_range = (-WIDE_RANGE, WIDE_RANGE)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        for j in range(layer.num_outputs):
            tensor = layer.get_output(j)
            if tensor is not None and not tensor.is_shape_tensor:
                tensor.dynamic_range = (-WIDE_RANGE, WIDE_RANGE)


@contextlib.contextmanager
def _printed_to(path: Path) -> Iterator[None]:
    """What this process prints, TensorRT's own logger included, goes to a file meanwhile."""
    saved = os.dup(1), os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
