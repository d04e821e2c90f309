"""The seam between edgesparse and whatever executes a network: a Backend builds and loads, a Runner runs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.frames import FramePlan, Slot
from edgesparse.closing import Closing
from edgesparse.config import Way
from edgesparse.errors import BuildError
from edgesparse.progress import Progress, quiet


@dataclass(frozen=True)
class TensorSpec:
    """Name, static shape and NumPy dtype name (`float32`, `int64`, ...) of one input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"


@dataclass(frozen=True)
class Availability:
    """Whether a backend works on this machine; if not, why and what would mend it."""

    ok: bool
    version: str = ""
    reason: str = ""
    remedy: str = ""


Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Limits:
    """What a build may spend. Sizes in bytes; None leaves it to the backend; one without such a lever ignores it."""

    workspace: int | None = None
    """Scratch memory that a tactic may ask for."""
    tactic_memory: int | None = None
    """Device memory that trying tactics may take."""
    level: int | None = None
    """How long to optimise, 0 (least) to 5."""
    tactics: int | None = None
    """Most tactics that are tried a layer."""
    libraries: bool = False
    """Tactics of cuDNN and cuBLAS, whose loading alone takes hundreds of megabytes."""
    edge_masks: bool = True
    """Tactics of the edge-mask convolutions."""
    aux_streams: int | None = None
    """Most streams beside the main one, each of which has its own activations."""


@dataclass(frozen=True)
class BuildOptions:
    """`threads`: CPU threads, 0 for every core. `simplify`: fold constants and drop what computes nothing.

    `precision` is the lowest that layers may run in. INT8 comes from the Q/DQ nodes of the model, or, where it has
    none, from the calibration table `table`, or from TensorRT's own calibration on `images` (a .npy of N x 3 x H x W
    float32). `sparse` allows 2:4 kernels. `profile`: least, usual and largest batch of a model with an open batch.
    `dla`: the DLA core to build for. `timing_cache`: read, and added to. `detailed`: names every kernel in the plan.
    """

    threads: int = 0
    simplify: bool = True
    precision: Precision = "fp32"
    sparse: bool = False
    table: Path | None = None
    images: Path | None = None
    profile: tuple[int, int, int] | None = None
    dla: int | None = None
    limits: Limits = Limits()
    timing_cache: Path | None = None
    detailed: bool = True


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine: `kernel` is what really runs; `sparse`, whether that kernel is a 2:4 one."""

    name: str
    kernel: str
    sparse: bool
    onnx: tuple[str, ...] = ()
    """The ONNX nodes it was made of, where that is known."""
    device: str = "gpu"
    precision: str = ""


@dataclass(frozen=True)
class BuildResult:
    """`path`: the file that `load` takes. `precision`: the lowest in it. `seconds`: how long it took.

    `eligible` and `picked`: layers that the builder considered for 2:4 and that it gave a 2:4 kernel, as its log says.
    `layers`: what the built engine says of itself. `degraded`: why the engine may be slower than it could be (tactics
    that were skipped for want of memory, in the builder's words). `command`: the trtexec line that does the same.
    `device_memory`: bytes that an execution context needs beside the weights.
    """

    path: Path
    precision: Precision
    seconds: float
    layers: tuple[EngineLayer, ...] = ()
    eligible: tuple[str, ...] = ()
    picked: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    command: str = ""
    device_memory: int = 0


LOADED = "library loaded"
"""What a build says once its library is there and nothing is built yet: what it takes by itself is measured then."""


class Runner(Closing):
    """A loaded network with its buffers. `bind` checks once; `infer` checks nothing and allocates nothing.

    A runner is used from one thread at a time and is a context manager.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def allocate(self) -> dict[str, NDArray[Any]]:
        """Buffers for every input and output, in the memory that suits this runner; zeroed, so pages are there."""
        return {spec.name: np.zeros(spec.shape, spec.dtype) for spec in (*self.inputs, *self.outputs)}

    def bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        """Use these buffers from now on. Each is C-contiguous, of its tensor's shape and dtype; else BuildError."""
        for spec in (*self.inputs, *self.outputs):
            buffer = buffers.get(spec.name)
            if buffer is None:
                raise BuildError(f"no buffer for {spec}: found {', '.join(buffers) or 'none'}")
            if buffer.shape != spec.shape or buffer.dtype != np.dtype(spec.dtype):
                found = "x".join(map(str, buffer.shape))
                raise BuildError(f"buffer for {spec}: found {found} {buffer.dtype}")
            if not buffer.flags.c_contiguous:
                raise BuildError(f"buffer for {spec} is not C-contiguous: pass numpy.ascontiguousarray of it")
        self._bind(buffers)

    @abstractmethod
    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None: ...

    def frames(self, plan: FramePlan) -> list[Slot]:
        """Slots that take whole batches from frames to candidates by this runner's own means; none where it has no
        such means. Close them before the runner. Raises BuildError."""
        return []

    def frame_buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for a frame to be captured into, from where this runner need not copy it within the machine."""
        return np.zeros(shape, np.uint8)

    @abstractmethod
    def infer(self) -> None:
        """Run once, from the bound inputs into the bound outputs; returns when the outputs are there."""

    def latency(self) -> float:
        """Milliseconds of one run of the engine alone, without copies where it has memory of its own."""
        start = time.perf_counter()
        self.infer()
        return 1e3 * (time.perf_counter() - start)

    @abstractmethod
    def close(self) -> None:
        """Free everything; calling it again does nothing."""


class Backend(ABC):
    """One way to execute networks. Stateless: what it makes are files and runners."""

    name: str
    suffix: str
    """Ending of the files that `build` writes."""
    takes_bytes: bool = False
    """Whether images are best handed over as uint8, scaled by the graph itself."""
    open_batch: bool = False
    """Whether it builds for a range of batches: a model with an open one, and `profile`."""
    native_code: bool = False
    """Whether its files hold code that runs on loading: such packages are loaded only with this device's own mark."""

    @abstractmethod
    def probe(self) -> Availability: ...

    def ways(self) -> tuple[Way, ...]:
        """The ways of lowering precision that it can build on this machine."""
        return ("fp32", "int8-qdq")

    def dense_because(self) -> str | None:
        """Why it has no 2:4 kernels on this machine; None when it has."""
        return f"{self.name} has none"

    def strongly_typed(self) -> bool:
        """Whether types come from the ONNX alone: FP16, and what INT8 leaves in float, are handed over as FP16."""
        return False

    @abstractmethod
    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: Progress = quiet) -> BuildResult:
        """Compile an ONNX file with static shapes into `out`. Raises ModelError, BuildError, BackendUnavailable."""

    @abstractmethod
    def load(self, path: Path, threads: int = 0, dla: int | None = None) -> Runner:
        """A runner of a file that `build` wrote, with fresh buffers bound; of an open batch, the usual one.

        `dla`: the DLA core that it was built for. Raises BuildError.
        """

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """What a file built here depends on: versions and hardware. Goes into the manifest."""

    @abstractmethod
    def refuses(self, built: Mapping[str, str]) -> str | None:
        """Why a file that was built under that identity must not be loaded here, as 'found, needed'; else None."""
