"""Engines of TensorRT 8.5 built in the current context, with kernels that an Orin has.

Kernel names begin with the GPU generation that they were written for. An Orin (8.7) runs sm80 and sm86 kernels but no
sm90 ones. `toll.c` makes Hopper's own kernels lose while the builder times them; the engine inspector then shows
whether any are left. (An IAlgorithmSelector can remove them too, but rules out the timing cache: a YOLOv8n then does
not build in five minutes. Reporting compute capability 8.0 to TensorRT does not work: it loads code that a Hopper
cannot run.)

With a free choice of precision per layer, two thirds of a build go to timing copies between the formats of FP32, FP16
and INT8. Layers are therefore asked to run in the engine's precision, from the input to the head's first reshape.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesparse.backends.tensorrt.inspect import information, parse
from edgesparse.backends.tensorrt.log import BuildLog
from edgesparse.files import replacing

HOPPER = re.compile(r"sm90|cutlass_90|hopper", re.I)
KEEP = 20.0
"""Seconds between copies of the timing cache."""
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
    free: bool = False
    """Whether every layer may run in any precision."""
    jit: bool = True
    """Whether convolutions may be compiled together with what follows them (SiLU), which takes most of a build."""


@dataclass(frozen=True)
class Built:
    """`kernels`: kernel name of each layer and whether it is sparse. `eligible`: layers that TensorRT found 2:4."""

    plan: bytes
    seconds: float
    kernels: tuple[tuple[str, str, bool], ...]
    eligible: int
    timings: int
    """How many times the builder timed a kernel; 0 without toll.c."""

    def as_dict(self) -> dict[str, Any]:
        families: dict[str, int] = {}
        for _, kernel, _ in self.kernels:
            result = re.match(r"(sm\d+|[A-Za-z]+)", kernel)
            family = result[1] if result else "other"
            families[family] = families.get(family, 0) + 1
        return {
            "build_s": round(self.seconds, 1),
            "timings": self.timings,
            "layers": len(self.kernels),
            "sparse_kernels": sum(sparse for _, _, sparse in self.kernels),
            "sm90_kernels": sum(bool(HOPPER.search(kernel)) for _, kernel, _ in self.kernels),
            "eligible": self.eligible,
            "sparse_layers": [layer for layer, _, sparse in self.kernels if sparse],
            "kernels": families,
        }


class Builder:
    """Builds in one process; everything that TensorRT prints goes to `folder`/NAME.log and is then parsed. Builds of
    one NAME share a timing cache, which starts with what those of other names already hold."""

    def __init__(self, trt: Any, folder: Path) -> None:
        self._trt, self._folder = trt, folder
        self._logger = trt.Logger(trt.Logger.INFO)
        self._runtime = trt.Runtime(self._logger)

    def build(self, onnx: bytes, options: Options, name: str) -> Built:
        """Build the engine. Raises RuntimeError with TensorRT's last error."""
        log = self._folder / f"{name}.log"
        start, before = time.perf_counter(), _timings()
        with _printed_to(log), _once():
            plan = self._plan(onnx, options, self._folder / f"{name}.timing")
        text = log.read_text(errors="replace")
        if plan is None:
            errors = re.findall(r"\[E\] (.*)", text)
            raise RuntimeError(errors[-1][:300] if errors else "TensorRT gave no plan and no reason")
        seconds, timings = time.perf_counter() - start, _timings() - before
        sparsity = BuildLog()
        for line in text.splitlines():
            if "(Sparsity)" in line:
                sparsity.take("INFO", line[line.index("(Sparsity)") :])
        kernels = tuple(
            (layer.name, layer.kernel, layer.sparse) for layer in parse(information(self._trt, self.load(plan)))
        )
        return Built(bytes(plan), seconds, kernels, len(sparsity.eligible), timings)

    def load(self, plan: Any) -> Any:
        """The engine of a plan."""
        with _printed_to(self._folder / "load.log"):
            return self._runtime.deserialize_cuda_engine(plan)

    def _plan(self, onnx: bytes, options: Options, cached: Path) -> Any:
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
        flags += () if options.free or options.qdq else ("PREFER_PRECISION_CONSTRAINTS",)
        flags += ("ENABLE_TACTIC_HEURISTIC",) if options.heuristic else ()
        for flag in flags:
            config.set_flag(getattr(trt.BuilderFlag, flag))
        if options.precision == "int8" and not options.qdq:
            _set_ranges(network)
        if not (options.free or options.qdq):
            hold(trt, network, {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}[options.precision])
        cache = config.create_timing_cache(cached.read_bytes() if cached.exists() else b"")
        for other in sorted(self._folder.glob("*.timing")):
            if other != cached:
                cache.combine(config.create_timing_cache(other.read_bytes()), ignore_mismatch=True)
        config.set_timing_cache(cache, ignore_mismatch=True)
        with _kept(config, cached):
            return builder.build_serialized_network(network, config)


@contextlib.contextmanager
def _once() -> Iterator[None]:
    """Let toll.c multiply all times by 1000: the builder then times each kernel once, not ten times."""
    os.environ["TOLL_SCALE"] = "1000"
    try:
        yield
    finally:
        del os.environ["TOLL_SCALE"]


@contextlib.contextmanager
def _kept(config: Any, file: Path) -> Iterator[None]:
    """Store the timing cache every KEEP seconds and at the end, so that a build that is cut off can continue."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(KEEP):
            store()

    def store() -> None:
        with replacing(file) as out:
            out.write(memoryview(config.get_timing_cache().serialize()))

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
        store()
    finally:
        ended.set()
        thread.join()


def _timings() -> int:
    count = getattr(ctypes.CDLL(None), "toll_timings", None)
    return int(count()) if count else 0


def _set_ranges(network: Any) -> None:
    for i in range(network.num_inputs):
        network.get_input(i).dynamic_range = (-WIDE_RANGE, WIDE_RANGE)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        for j in range(layer.num_outputs):
            tensor = layer.get_output(j)
            if tensor is not None and not tensor.is_shape_tensor:
                tensor.dynamic_range = (-WIDE_RANGE, WIDE_RANGE)


BODY = ("CONVOLUTION", "ACTIVATION", "ELEMENTWISE", "POOLING", "CONCATENATION", "RESIZE", "SLICE")
POINTWISE = ("ACTIVATION", "ELEMENTWISE")


def hold(trt: Any, network: Any, precision: str) -> int:
    """Ask for one precision from the input to the head's first reshape. Returns the number of layers.

    The tensors between a convolution and its activation are left open, since the two are fused, and so are those that
    the head reads.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dtype, inside = getattr(trt.DataType, precision), {network.get_input(i).name for i in range(network.num_inputs)}
    users: dict[str, list[Any]] = {}
    for layer in layers:
        for tensor in _tensors(layer.get_input, layer.num_inputs):
            users.setdefault(tensor.name, []).append(layer)
    body = []
    for layer in layers:
        inputs = list(_tensors(layer.get_input, layer.num_inputs))
        if layer.type.name in BODY and inputs and all(tensor.name in inside for tensor in inputs):
            body.append(layer)
            inside |= {tensor.name for tensor in _tensors(layer.get_output, layer.num_outputs)}
    names = {layer.name for layer in body}
    for layer in body:
        layer.precision = dtype
        for i, tensor in enumerate(_tensors(layer.get_output, layer.num_outputs)):
            next_layers = users.get(tensor.name, [])
            fused = layer.type.name == "CONVOLUTION" and any(n.type.name in POINTWISE for n in next_layers)
            fused |= layer.type.name == "ACTIVATION" and any(n.type.name == "ELEMENTWISE" for n in next_layers)
            if next_layers and not fused and all(n.name in names for n in next_layers):
                layer.set_output_type(i, dtype)
    return len(body)


def _tensors(get: Callable[[int], Any], count: int) -> Iterator[Any]:
    return (tensor for tensor in map(get, range(count)) if tensor is not None)


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
