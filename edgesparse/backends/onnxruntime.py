"""ONNX Runtime on the CPU: the backend that runs everywhere."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import Availability, Backend, BuildOptions, BuildResult, Precision, Runner, TensorSpec
from edgesparse.errors import BackendUnavailable, BuildError, ModelError
from edgesparse.progress import Progress, quiet
from edgesparse.wording import printable

_REMEDY = "pip install onnxruntime"


class OnnxRuntimeBackend(Backend):
    name = "onnxruntime"
    suffix = ".onnx"
    takes_bytes = True

    def probe(self) -> Availability:
        try:
            import onnxruntime
        except ImportError as error:
            return Availability(False, reason=str(error), remedy=_REMEDY)
        return Availability(True, onnxruntime.__version__)

    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: Progress = quiet) -> BuildResult:
        """Apply ONNX Runtime's basic optimizations and save.

        They fold constants and batch norms and remove identities and unused nodes; the result is plain ONNX.
        """
        start = time.perf_counter()
        ort = _import()
        settings = _settings(ort, options.threads)
        settings.graph_optimization_level = (
            ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
            if options.simplify
            else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
        settings.optimized_model_filepath = _name(out)
        name = _name(onnx)
        try:
            session = ort.InferenceSession(name, settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{onnx.name}: ONNX Runtime refuses it: {_one_line(error)}") from error
        del session
        with OnnxRuntimeRunner(out, options.threads) as runner:
            runner.infer()  # some wrong shapes show only then
        precision: Precision = "int8" if _has_quantized_layers(out) else "fp32"
        return BuildResult(out, precision, time.perf_counter() - start)

    def load(self, path: Path, threads: int = 0, dla: int | None = None) -> Runner:
        return OnnxRuntimeRunner(path, threads)

    def identity(self) -> dict[str, str]:
        return {"onnxruntime": self.probe().version}

    def refuses(self, built: Mapping[str, str]) -> str | None:
        """The files are plain ONNX: any release from the one that wrote them on loads them."""
        installed, needed = self.probe().version, built.get("onnxruntime", "0")
        if _release(installed) >= _release(needed):
            return None
        return f"found ONNX Runtime {installed}, needed {needed} or newer"


class OnnxRuntimeRunner(Runner):
    def __init__(self, path: Path, threads: int) -> None:
        ort, name = _import(), _name(path)
        try:
            self._session = ort.InferenceSession(name, _settings(ort, threads), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BuildError(f"{path}: ONNX Runtime cannot load it: {_one_line(error)}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._name = path.name
        self.bind(self.allocate())

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        binding = self._session.io_binding()
        for spec in self.inputs:
            binding.bind_input(spec.name, "cpu", 0, np.dtype(spec.dtype), spec.shape, buffers[spec.name].ctypes.data)
        for spec in self.outputs:
            binding.bind_output(spec.name, "cpu", 0, np.dtype(spec.dtype), spec.shape, buffers[spec.name].ctypes.data)
        self._binding, self.buffers = binding, dict(buffers)

    def infer(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)  # options would cost 30 us: an entry of theirs is looked up
        except Exception as error:
            raise BuildError(f"ONNX Runtime cannot run {self._name}: {_one_line(error)}") from error

    def close(self) -> None:
        self._binding = self._session = None
        self.buffers = {}


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"onnxruntime does not import ({error}): {_REMEDY}") from error
    return onnxruntime


def _name(path: Path) -> str:
    """Return a path as ONNX Runtime takes it. Raises ModelError if it is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ModelError(
            f"{printable(path)}: ONNX Runtime cannot open a name that is not UTF-8: rename it, or its folder"
        ) from None
    return str(path)


def _settings(ort: Any, threads: int) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # errors come as exceptions too
    # Threads that wait for work spin, which a run of small layers needs: without it YOLOX-nano takes twice as long.
    # After a run they stop: they else take 40 ms of processor time from the frame's other work.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    # Run Q/DQ as written. ONNX Runtime's fusions round biases too, saturate on CPUs without VNNI (16-bit sums of
    # u8 x s8), and are slower on symmetric INT8, where ReLU keeps convolutions from being fused
    # (docs/reference/qdq.md).
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return settings


_DTYPES = {"float": "float32", "double": "float64"}


def _spec(node: Any) -> TensorSpec:
    dtype = re.fullmatch(r"tensor\((\w+)\)", node.type)
    if dtype is None:
        raise ModelError(f"{node.name} is a {node.type}: only tensors can be bound")
    shape = tuple(node.shape)
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ModelError(
            f"{node.name} has the dynamic shape {shape}: needed a static one; set input.size and build.batch"
        )
    return TensorSpec(node.name, shape, _DTYPES.get(dtype[1], dtype[1]))


def _has_quantized_layers(path: Path) -> bool:
    """Search the saved file for operator types, strings in protobuf's field 4, without a parser."""
    data = path.read_bytes()
    return any(bytes([4 << 3 | 2, len(name)]) + name in data for name in (b"DequantizeLinear", b"QLinearConv"))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _one_line(error: BaseException) -> str:
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    return re.sub(r"\s+", " ", text).strip()[:300]
