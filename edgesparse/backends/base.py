"""The interface to the libraries that execute models: a Backend builds and loads, a Runner runs."""

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
    """Whether a backend works on this machine; if not, the reason and the fix."""

    ok: bool
    version: str = ""
    reason: str = ""
    remedy: str = ""


Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Limits:
    """What a build may use. Sizes in bytes. None: the backend decides. Unknown limits are ignored."""

    workspace: int | None = None
    """Scratch memory that a tactic may use."""
    tactic_memory: int | None = None
    """Device memory for timing tactics."""
    level: int | None = None
    """Effort of the optimization, 0 (least) to 5."""
    tactics: int | None = None
    """Maximum number of tactics to time per layer."""
    libraries: bool = False
    """Whether to try tactics of cuDNN and cuBLAS. Loading these libraries alone takes hundreds of megabytes."""
    edge_masks: bool = True
    """Whether to try the edge-mask convolutions."""
    aux_streams: int | None = None
    """Maximum number of streams besides the main one. Each has its own activations."""


@dataclass(frozen=True)
class ImageInput:
    """The type in which an engine takes the image. `scale`: of INT8, the value of one step."""

    dtype: Literal["float16", "int8"]
    scale: float = 1.0


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine.

    `threads`: CPU threads, 0 for every core. `simplify`: fold constants and remove nodes without effect. `precision`:
    the lowest that layers may run in. INT8 uses the Q/DQ nodes of the model; without any, the calibration table
    `table`, or TensorRT's own calibration on `images` (a .npy of N x 3 x H x W float32). `sparse`: allow 2:4 kernels.
    `profile`: smallest, usual and largest batch of a model with an open batch. `dla`: the DLA core to build for.
    `timing_cache`: a file that is read and extended. `detailed`: record the name of every kernel in the engine.
    `image`: the type of the only input, an image, in a layout that the builder chooses; None: as the model has it.
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
    image: ImageInput | None = None


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine. `kernel`: the kernel that runs; `sparse`: whether it is a 2:4 kernel."""

    name: str
    kernel: str
    sparse: bool
    onnx: tuple[str, ...] = ()
    """The ONNX nodes that were fused into it, if known."""
    device: str = "gpu"
    precision: str = ""


@dataclass(frozen=True)
class BuildResult:
    """A built engine.

    `path`: the file for `load`. `precision`: the lowest in it. `seconds`: duration of the build. `eligible`, `picked`:
    layers that the builder's log names as candidates for 2:4 kernels, and as running one. `layers`: the layers of the
    engine, as its inspector reports them. `degraded`: messages of the builder about tactics that it skipped because
    memory ran out, so that the engine may be slower than possible. `command`: the equivalent trtexec command.
    `device_memory`: bytes that an execution context needs in addition to the weights. `image`: how the engine takes the
    image, if not as the model has it.
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
    image: str = ""


LOADED = "library loaded"
"""Progress step at which a build has loaded its library but built nothing yet: the time to measure its own memory."""


class Runner(Closing):
    """A loaded engine with its buffers. `bind` checks them once; `infer` checks and allocates nothing.

    Use it from one thread at a time. It is a context manager.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def allocate(self) -> dict[str, NDArray[Any]]:
        """Allocate zeroed buffers for every input and output in the kind of memory that suits this runner."""
        return {spec.name: np.zeros(spec.shape, spec.dtype) for spec in (*self.inputs, *self.outputs)}

    def bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        """Use these buffers from now on. Raises BuildError unless each is C-contiguous and has its tensor's shape and
        dtype.
        """
        for spec in (*self.inputs, *self.outputs):
            buffer = buffers.get(spec.name)
            if buffer is None:
                raise BuildError(f"no buffer for {spec}: found {', '.join(buffers) or 'none'}")
            if buffer.shape != spec.shape or buffer.dtype != np.dtype(spec.dtype):
                shape = "x".join(map(str, buffer.shape))
                raise BuildError(f"buffer for {spec}: found {shape} {buffer.dtype}")
            if not buffer.flags.c_contiguous:
                raise BuildError(f"buffer for {spec} is not C-contiguous: pass numpy.ascontiguousarray of it")
        self._bind(buffers)

    @abstractmethod
    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None: ...

    def frames(self, plan: FramePlan) -> list[Slot]:
        """Slots that process whole batches from frames to candidates, if this runner has its own frame path.

        The list is empty if it has none. Close the slots before the runner. Raises BuildError.
        """
        return []

    def frame_buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory to capture a frame into, which this runner reads without a copy by the CPU."""
        return np.zeros(shape, np.uint8)

    @abstractmethod
    def infer(self) -> None:
        """Run once, from the bound inputs into the bound outputs. Returns when the outputs are complete."""

    def latency(self) -> float:
        """Milliseconds of one run of the engine alone, without copies to and from device memory."""
        start = time.perf_counter()
        self.infer()
        return 1e3 * (time.perf_counter() - start)


class Backend(ABC):
    """A library that builds and runs engines. Stateless: it produces files and runners."""

    name: str
    suffix: str
    """Suffix of the files that `build` writes."""
    takes_bytes: bool = False
    """Whether images are best passed as uint8 and scaled by the graph."""
    open_batch: bool = False
    """Whether it builds models with an open batch for a range of batches (`profile`)."""
    native_code: bool = False
    """Whether loading its files runs code in them. Such packages are loaded only with this device's own signature."""

    @abstractmethod
    def probe(self) -> Availability:
        """Whether it works on this machine."""

    def ways(self) -> tuple[Way, ...]:
        """The kinds of precision that it can build on this machine."""
        return ("fp32", "int8-qdq")

    def dense_because(self) -> str | None:
        """Why it has no 2:4 kernels on this machine; None if it has them."""
        return f"{self.name} has none"

    def strongly_typed(self) -> bool:
        """Whether types come from the ONNX file alone, so that FP16 must be in the model."""
        return False

    def chooses_image_layout(self) -> bool:
        """Whether `image` may be set in BuildOptions, since frames are prepared by kernels that write such an image."""
        return False

    @abstractmethod
    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: Progress = quiet) -> BuildResult:
        """Build an ONNX file with static shapes into `out`. Raises ModelError, BuildError, BackendUnavailable."""

    @abstractmethod
    def load(self, path: Path, threads: int = 0, dla: int | None = None) -> Runner:
        """Load a file that `build` wrote, with new buffers bound. An open batch is set to its usual size.

        `dla`: the DLA core that it was built for. Raises BuildError.
        """

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Versions and hardware that a file built here depends on. Stored in the manifest."""

    @abstractmethod
    def refuses(self, built: Mapping[str, str]) -> str | None:
        """Why a file built with that identity must not be loaded here, as 'found, needed'; None if it may be."""
