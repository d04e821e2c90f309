"""A backend without hardware, for tests: it answers with outputs that the test wrote down."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import (
    Availability,
    Backend,
    BuildOptions,
    BuildProgress,
    BuildResult,
    Runner,
    TensorSpec,
    quiet,
)
from edgesparse.errors import BuildError


class NullBackend(Backend):
    """Its files are JSON: `inputs` and `outputs` ([name, shape, dtype] each), `values` (a number or nested lists
    an output), `seconds` (how long one inference takes), `fail_at` (the inference that raises)."""

    name = "null"
    suffix = ".json"

    def probe(self) -> Availability:
        return Availability(True, "1.0")

    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: BuildProgress = quiet) -> BuildResult:
        raise BuildError("the null backend builds nothing: write its JSON file, or use backend onnxruntime")

    def load(self, path: Path, threads: int = 0) -> Runner:
        try:
            return NullRunner(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise BuildError(f"{path}: not a file of the null backend: {error}") from error

    def identity(self) -> dict[str, str]:
        return {"null": "1.0"}

    def refuses(self, built: Mapping[str, str]) -> str | None:
        return None if built == self.identity() else f"found {self.identity()}, needed {dict(built)}"


class NullRunner(Runner):
    def __init__(self, plan: dict[str, object]) -> None:
        self.inputs = _specs(plan["inputs"])
        self.outputs = _specs(plan["outputs"])
        values = plan.get("values", {})
        assert isinstance(values, dict)
        self._values = {spec.name: np.asarray(values.get(spec.name, 0), spec.dtype) for spec in self.outputs}
        self._seconds = float(str(plan.get("seconds", 0)))
        self._fail_at = int(str(plan.get("fail_at", -1)))
        self._count = 0
        self.bind(self.allocate())

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        self.buffers = dict(buffers)

    def infer(self) -> None:
        if self._count == self._fail_at:
            raise BuildError(f"inference {self._count} failed, as the plan said")
        self._count += 1
        for name, value in self._values.items():
            self.buffers[name][...] = value
        if self._seconds:
            time.sleep(self._seconds)

    def close(self) -> None:
        self.buffers = {}


def _specs(rows: object) -> tuple[TensorSpec, ...]:
    assert isinstance(rows, list)
    return tuple(TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in rows)
