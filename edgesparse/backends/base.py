"""The seam between edgesparse and whatever executes a network: a Backend builds and loads, a Runner runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import BuildError


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


@dataclass(frozen=True)
class BuildOptions:
    """`threads`: CPU threads, 0 for every core. `simplify`: fold constants and drop what computes nothing."""

    threads: int = 0
    simplify: bool = True


@dataclass(frozen=True)
class BuildResult:
    """`path`: the file that `load` takes. `precision`: `fp32`, `fp16` or `int8`. `seconds`: how long it took."""

    path: Path
    precision: str
    seconds: float


class Runner(ABC):
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

    @abstractmethod
    def infer(self) -> None:
        """Run once, from the bound inputs into the bound outputs; returns when the outputs are there."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; calling it again does nothing."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """One way to execute networks. Stateless: what it makes are files and runners."""

    name: str
    suffix: str
    """Ending of the files that `build` writes."""
    takes_bytes: bool = False
    """Whether pictures are best handed over as uint8, scaled by the graph itself."""

    @abstractmethod
    def probe(self) -> Availability: ...

    @abstractmethod
    def build(self, onnx: Path, out: Path, options: BuildOptions) -> BuildResult:
        """Compile an ONNX file with static shapes into `out`. Raises ModelError, BuildError, BackendUnavailable."""

    @abstractmethod
    def load(self, path: Path, threads: int = 0) -> Runner:
        """A runner of a file that `build` wrote, with fresh buffers bound. Raises BuildError."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """What a file built here depends on: versions and hardware. Goes into the manifest."""

    @abstractmethod
    def refuses(self, built: Mapping[str, str]) -> str | None:
        """Why a file that was built under that identity must not be loaded here, as 'found, needed'; else None."""
