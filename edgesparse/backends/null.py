"""A backend without hardware, for tests: it returns outputs that the test wrote down."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import (
    LOADED,
    Availability,
    Backend,
    BuildOptions,
    BuildResult,
    EngineLayer,
    Runner,
    TensorSpec,
)
from edgesparse.backends.frames import Frame, FrameBoxes, FramePlan, Slot
from edgesparse.config import SPARSE, WAYS, Way
from edgesparse.errors import BuildError
from edgesparse.progress import Progress, quiet

PLAN = "EDGESPARSE_NULL"
"""Environment variable with the path of the JSON file that describes builds."""


class NullBackend(Backend):
    """Engines are JSON files: `inputs` and `outputs` (a list of [name, shape, dtype] each) and, optionally:

    `values`: per output, a number or nested lists. `seconds`: duration of one inference. `fail_at`: the first inference
    that raises, as do all later ones. `hang_at`: the inference that never returns. `slots`: batches in flight; these
    run when they are collected, and fail if a frame has been overwritten before that.

    Builds follow the JSON file in the environment variable EDGESPARSE_NULL: such an engine with `ways` (the kinds of
    precision it has), `dense_because`, `image_layout` (whether it chooses one), and `builds`, a mapping by candidate
    (`fp16-2:4`) whose entries override the engine's. `eligible` and `picked` are the layers in the build's log,
    `kernels` those that run sparse. `megabytes` is the memory that a build takes, or less under a smaller workspace
    limit, which marks it degraded; `most_megabytes` is the amount at which it is killed. `crash` is a signal that ends
    the build, `hang` its duration in seconds, `error` what it raises, `image_error` what it raises for an image in a
    layout of its own.
    """

    name = "null"
    suffix = ".json"
    open_batch = True
    native_code = True

    def probe(self) -> Availability:
        return Availability(True, "1.0")

    def ways(self) -> tuple[Way, ...]:
        return tuple(_plan().get("ways", WAYS))

    def dense_because(self) -> str | None:
        reason = _plan().get("dense_because")
        return None if reason is None else str(reason)

    def chooses_image_layout(self) -> bool:
        return bool(_plan().get("image_layout"))

    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: Progress = quiet) -> BuildResult:
        started, plan = time.perf_counter(), _plan()
        if not plan:
            raise BuildError(f"the null backend has no plan: name its JSON file in {PLAN}")
        engine = {**plan, **plan.get("builds", {}).get(_candidate(options), {})}
        progress(LOADED, 0, 0)
        progress("trying tactics", 1, 2)
        degraded = _spend(engine, options.limits.workspace)
        for name in ("error", *(("image_error",) if options.image else ())):
            if name in engine:
                raise BuildError(str(engine[name]))
        out.write_text(json.dumps(engine))
        progress("trying tactics", 2, 2)
        eligible = tuple(engine.get("eligible", ())) if options.sparse else ()
        picked = tuple(engine.get("picked", ())) if options.sparse else ()
        names, sparse = engine.get("eligible", ()), engine.get("kernels", picked) if options.sparse else ()
        layers = tuple(EngineLayer(n, f"{'sparse' if n in sparse else 'dense'}_{n}", n in sparse) for n in names)
        seconds = time.perf_counter() - started
        command = f"null --onnx={onnx.name} {_candidate(options)}"
        image = f"{options.image.dtype} {options.image.scale:.6f} of {onnx.name}" if options.image else ""
        notes = (degraded, (), command, 1_000_000, image)
        return BuildResult(out, options.precision, seconds, layers, eligible, picked, *notes)

    def load(self, path: Path, threads: int = 0, dla: int | None = None) -> Runner:
        try:
            return NullRunner(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise BuildError(f"{path}: not a file of the null backend: {error}") from error

    def identity(self) -> dict[str, str]:
        return {"null": "1.0"}

    def refuses(self, built: Mapping[str, str]) -> str | None:
        return None if built == self.identity() else f"found {self.identity()}, needed {dict(built)}"


def _plan() -> dict[str, Any]:
    path = os.environ.get(PLAN)
    plan: dict[str, Any] = json.loads(Path(path).read_text()) if path else {}
    return plan


def _candidate(options: BuildOptions) -> str:
    """The candidate's name, as far as the options determine it."""
    name: str = options.precision
    if name == "int8":
        name = "int8-table" if options.table else "int8-tensorrt" if options.images else "int8-qdq"
    return name + (SPARSE if options.sparse else "")


def _spend(engine: Mapping[str, Any], workspace: int | None) -> tuple[str, ...]:
    """Use the memory and the time of this build; returns why it is degraded."""
    needed = int(engine.get("megabytes", 0) * 1e6)
    used = min(needed, workspace or needed)
    memory = b"1" * used
    if used > 1e6 * engine.get("most_megabytes", np.inf):
        os.kill(os.getpid(), signal.SIGKILL)
    if "crash" in engine:
        os.kill(os.getpid(), engine["crash"])
    time.sleep(engine.get("hang", 0.3 if memory else 0))
    return (f"Skipping tactic: needed {needed} bytes, found {used}",) if used < needed else ()


class NullRunner(Runner):
    def __init__(self, plan: dict[str, object]) -> None:
        self.inputs = _specs(plan["inputs"])
        self.outputs = _specs(plan["outputs"])
        values = plan.get("values", {})
        assert isinstance(values, dict)
        self._values = {spec.name: np.asarray(values.get(spec.name, 0), spec.dtype) for spec in self.outputs}
        self._seconds = float(str(plan.get("seconds", 0)))
        self._fail_at = int(str(plan.get("fail_at", -1)))
        self._hang_at = int(str(plan.get("hang_at", -1)))
        self._count, self._slots = 0, int(str(plan.get("slots", 0)))
        self.bind(self.allocate())

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        self.buffers = dict(buffers)

    def frames(self, plan: FramePlan) -> list[Slot]:
        return [NullSlot(self, plan) for _ in range(self._slots)]

    def infer(self) -> None:
        self._answer()
        if self._seconds:
            time.sleep(self._seconds)

    def latency(self) -> float:
        """The plan's duration, so that no test depends on the load of the machine."""
        self._answer()
        return 1e3 * self._seconds or 0.001

    def _answer(self) -> None:
        if self._count == self._hang_at:
            threading.Event().wait()
        if self._count == self._fail_at:
            raise BuildError(f"inference {self._count} failed, as planned")
        self._count += 1
        for name, value in self._values.items():
            self.buffers[name][...] = value

    def close(self) -> None:
        self.buffers = {}


class NullSlot(Slot):
    """A slot of a runner with fixed outputs: only the order of events is real."""

    where = "nowhere"

    def __init__(self, runner: NullRunner, plan: FramePlan) -> None:
        self._runner, self._plan, self.times = runner, plan, [0, 0, 0]
        self._frames: list[tuple[NDArray[np.uint8], int]] = []

    def start(self, frames: Sequence[Frame]) -> None:
        self._frames = [(frame, _checksum(frame)) for frame, _ in frames if isinstance(frame, np.ndarray)]

    def finish(self) -> list[FrameBoxes]:
        self._runner.infer()
        if any(_checksum(frame) != checksum for frame, checksum in self._frames):
            raise BuildError("a frame has changed while its batch was in flight")
        outputs = [self._runner.buffers[spec.name] for spec in self._runner.outputs]
        return [self._plan.decoded(outputs, image) for image in range(len(self._frames))]

    def close(self) -> None:
        self._frames = []


def _checksum(frame: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(frame).data)


def _specs(rows: object) -> tuple[TensorSpec, ...]:
    assert isinstance(rows, list)
    return tuple(TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in rows)
