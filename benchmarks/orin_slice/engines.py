"""Engines of TensorRT 8.5 built in the current context, with kernels that an Orin has.

Kernel names begin with the GPU generation that they were written for. An Orin (8.7) runs sm80 and sm86 kernels but no
sm90 ones. `toll.c` makes Hopper's own kernels lose while the builder times them; the engine inspector then shows
whether any are left. (An IAlgorithmSelector can remove them too, but rules out the timing cache: a YOLOv8n then does
not build in five minutes. Reporting compute capability 8.0 to TensorRT does not work: it loads code that a Hopper
cannot run.)
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesparse.backends.tensorrt.inspect import layers
from edgesparse.backends.tensorrt.log import BuildLog

HOPPER = re.compile(r"sm90|cutlass_90|hopper", re.I)
WIDE_RANGE = 4.0
"""INT8 range of every tensor in networks with random weights; it does not affect timings."""


@dataclass(frozen=True)
class Options:
    """Build options. `precision`: fp32, fp16 or int8 (weakly typed with every range set, unless the model has Q/DQ)."""

    precision: str
    sparse: bool = False
    qdq: bool = False
    heuristic: bool = False
    """TensorRT's own shortcut: tactics are ranked before they are timed."""
    jit: bool = True
    """Whether convolutions may be compiled together with what follows them (SiLU), which takes most of a build."""


@dataclass(frozen=True)
class Built:
    """`kernels`: kernel name of each layer and whether it is sparse; `hopper`: how many of them are Hopper's own."""

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
            "sparse_layers": [layer for layer, _, sparse in self.kernels if sparse],
            "kernels": families,
        }


class Builder:
    """Builds in one process with one timing cache; everything that TensorRT prints goes to `log` and is then parsed."""

    def __init__(self, trt: Any, folder: Path, cache: str) -> None:
        self._trt, self._folder = trt, folder
        self._logger = trt.Logger(trt.Logger.INFO)
        self._cache = folder / f"{cache}.timing"
        self._runtime = trt.Runtime(self._logger)

    def build(self, onnx: bytes, options: Options) -> Built:
        """Build the engine. Raises RuntimeError with TensorRT's last error."""
        log = self._folder / "build.log"
        start = time.perf_counter()
        with _printed_to(log):
            plan = self._plan(onnx, options)
        text = log.read_text(errors="replace")
        if plan is None:
            errors = re.findall(r"\[E\] (.*)", text)
            raise RuntimeError(errors[-1][:300] if errors else "TensorRT gave no plan and no reason")
        seconds = time.perf_counter() - start
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
    """Redirect everything that this process prints, including TensorRT's own logger, to a file."""
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
