"""TensorRT-RTX: builds ahead of time without a GPU, runs on GeForce and RTX GPUs, takes types from the ONNX file."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesparse.backends.base import Availability, Backend, BuildOptions, BuildResult, Runner
from edgesparse.backends.tensorrt.driver import differs, gpu
from edgesparse.config import Way
from edgesparse.errors import BackendUnavailable
from edgesparse.progress import Progress, quiet

RUNS_ON = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that plans can be compiled for, which exclude 8.7 (Jetson Orin) and 9.0 (H100)."""
_REMEDY = "pip install 'edgesparse[rtx]'"
_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")


class TensorRTRTXBackend(Backend):
    name = "tensorrt-rtx"
    suffix = ".engine"
    open_batch = True
    native_code = True

    def probe(self) -> Availability:
        """It builds wherever it can be imported; `load` refuses GPUs that it does not run on."""
        try:
            return Availability(True, str(_import().__version__))
        except ImportError as error:
            return Availability(False, reason=" ".join(str(error).split()), remedy=_REMEDY)

    def ways(self) -> tuple[Way, ...]:
        return ("fp32", "fp16", "int8-qdq", "int8-qdq-sparse")

    def dense_because(self) -> str | None:
        from edgesparse.backends.tensorrt.network import dense_because

        return dense_because(gpu()[1])

    def strongly_typed(self) -> bool:
        return True

    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: Progress = quiet) -> BuildResult:
        from edgesparse.backends.tensorrt import build

        # With a timing cache it requires a GPU. The cache would be empty: tactics are chosen at first use.
        return build.build(_require(), onnx, out, replace(options, timing_cache=None), "", progress)

    def load(self, path: Path, threads: int = 0, dla: int | None = None) -> Runner:
        sm = gpu()[1]
        if sm not in RUNS_ON:
            raise BackendUnavailable(
                f"TensorRT-RTX runs on compute capability {', '.join(RUNS_ON)}, found {sm or 'no GPU'}: "
                "use build.backend tensorrt or onnxruntime"
            )
        from edgesparse.backends.tensorrt.runner import TensorRTRunner

        return TensorRTRunner(_require(), path, dla=dla)

    def identity(self) -> dict[str, str]:
        """Plans are compiled for the GPU at first use, so they depend on the release alone."""
        return {"tensorrt-rtx": self.probe().version}

    def refuses(self, built: Mapping[str, str]) -> str | None:
        return differs(self.identity(), built)


def _import() -> Any:
    installed = [name for name in _MODULES if importlib.util.find_spec(name) is not None]
    return importlib.import_module((installed or _MODULES)[0])


def _require() -> Any:
    try:
        return _import()
    except ImportError as error:
        text = " ".join(str(error).split())
        raise BackendUnavailable(f"TensorRT-RTX does not import ({text}): {_REMEDY}") from None
