"""A backend without hardware, for tests: it answers with outputs that the test wrote down."""

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
from edgesparse.backends.frames import Found, Frame, FramePlan, Slot
from edgesparse.config import SPARSE, WAYS, Way
from edgesparse.errors import BuildError
from edgesparse.progress import Progress, quiet

PLAN = "EDGESPARSE_NULL"
"""Environment variable that names the JSON file which says how builds go."""


class NullBackend(Backend):
    """Its files are JSON: `inputs` and `outputs` ([name, shape, dtype] each), `values` (a number or nested lists
    an output), `seconds` (how long one inference takes), `fail_at` (the inference from
    which on all raise), `hang_at` (the one that never comes back), `slots` (how many batches it takes at once; they are
    run when they are collected, and fail where a frame was written into before that).

    It builds what the file in the environment variable EDGESPARSE_NULL says: such a file with `ways` (those it knows),
    `dense_because`, and `builds`, a mapping for a candidate's name, as `fp16-2:4`, that goes into the engine's file.
    There, `eligible` and `picked` name layers as a log does, `kernels` those that really run sparse; `megabytes` is
    the memory that the build takes, less when the limit on the workspace is lower (it is then degraded), and
    `most_megabytes` how much of it there is before it is killed; `crash` is a signal that ends it, `hang` how many
    seconds it takes, `error` what it raises.
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

    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: Progress = quiet) -> BuildResult:
        begun, plan = time.perf_counter(), _plan()
        if not plan:
            raise BuildError(f"the null backend has no plan: name its JSON file in {PLAN}")
        said = {**plan, **plan.get("builds", {}).get(_way(options), {})}
        progress(LOADED, 0, 0)
        progress("trying tactics", 1, 2)
        degraded = _spend(said, options.limits.workspace)
        if "error" in said:
            raise BuildError(str(said["error"]))
        out.write_text(json.dumps(said))
        progress("trying tactics", 2, 2)
        eligible = tuple(said.get("eligible", ())) if options.sparse else ()
        picked = tuple(said.get("picked", ())) if options.sparse else ()
        names, run = said.get("eligible", ()), said.get("kernels", picked) if options.sparse else ()
        layers = tuple(EngineLayer(n, f"{'sparse' if n in run else 'dense'}_{n}", n in run) for n in names)
        seconds = time.perf_counter() - begun
        command = f"null --onnx={onnx.name} {_way(options)}"
        return BuildResult(out, options.precision, seconds, layers, eligible, picked, degraded, (), command, 1_000_000)

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
    said: dict[str, Any] = json.loads(Path(path).read_text()) if path else {}
    return said


def _way(options: BuildOptions) -> str:
    """The candidate's name, as far as the options tell."""
    way: str = options.precision
    if way == "int8":
        way = "int8-table" if options.table else "int8-tensorrt" if options.images else "int8-qdq"
    return way + (SPARSE if options.sparse else "")


def _spend(said: Mapping[str, Any], workspace: int | None) -> tuple[str, ...]:
    """Take the memory and the time that the plan says; returns why the build is degraded."""
    wanted = int(said.get("megabytes", 0) * 1e6)
    taken = min(wanted, workspace or wanted)
    memory = b"1" * taken
    if taken > 1e6 * said.get("most_megabytes", np.inf):
        os.kill(os.getpid(), signal.SIGKILL)
    if "crash" in said:
        os.kill(os.getpid(), said["crash"])
    time.sleep(said.get("hang", 0.3 if memory else 0))
    return (f"Skipping tactic: needed {wanted} bytes, found {taken}",) if taken < wanted else ()


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
        """What the plan says, so that no test depends on how busy the machine is."""
        self._answer()
        return 1e3 * self._seconds or 0.001

    def _answer(self) -> None:
        if self._count == self._hang_at:
            threading.Event().wait()
        if self._count == self._fail_at:
            raise BuildError(f"inference {self._count} failed, as the plan said")
        self._count += 1
        for name, value in self._values.items():
            self.buffers[name][...] = value

    def close(self) -> None:
        self.buffers = {}


class NullSlot(Slot):
    """A slot of a runner whose answers are written down: only what a batch's way is like is real."""

    where = "nowhere"

    def __init__(self, runner: NullRunner, plan: FramePlan) -> None:
        self._runner, self._plan, self.times = runner, plan, np.zeros(3, np.int64)
        self._frames: list[tuple[NDArray[np.uint8], int]] = []

    def start(self, frames: Sequence[Frame]) -> None:
        self._frames = [(frame, _sum(frame)) for frame, _ in frames]

    def finish(self) -> list[Found]:
        self._runner.infer()
        if any(_sum(frame) != before for frame, before in self._frames):
            raise BuildError("a frame has changed on its way")
        outputs = [self._runner.buffers[spec.name] for spec in self._runner.outputs]
        return [Found(*self._plan.decode(outputs, image)) for image in range(len(self._frames))]

    def close(self) -> None:
        self._frames = []


def _sum(frame: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(frame).data)


def _specs(rows: object) -> tuple[TensorSpec, ...]:
    assert isinstance(rows, list)
    return tuple(TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in rows)
