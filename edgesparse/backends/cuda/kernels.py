"""The kernels of the frame path: compiled by nvcc for the GPU that is there at first use, kept, loaded, launched."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse import device
from edgesparse.backends.cuda import graph
from edgesparse.backends.cuda.gpu import Gpu, one_line
from edgesparse.errors import BackendUnavailable, BuildError

SOURCES = Path(__file__).parent
_LIMIT = 300
_log = logging.getLogger(__name__)


class Kernels:
    """Compiled kernels in the memory of a GPU, for as long as the process lives; make it with the context current.

    Raises BackendUnavailable when they cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._module = ctypes.c_void_p()
        code = graph.libcuda().cuModuleLoadData(ctypes.byref(self._module), path.read_bytes())
        try:
            graph.check(code, f"the kernels in {path} cannot be loaded")
        except BuildError as error:
            raise BackendUnavailable(
                f"{error}: remove that file, and use the nvcc that belongs to the driver"
            ) from None
        self._functions: dict[str, ctypes.c_void_p] = {}

    def function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            found = ctypes.c_void_p()
            code = graph.libcuda().cuModuleGetFunction(ctypes.byref(found), self._module, name.encode())
            graph.check(code, f"no kernel {name}")
            self._functions[name] = found
        return self._functions[name]


class Launch:
    """A kernel with grid, block and arguments: addresses on the GPU, and structures, which it takes by value
    as they are when it is enqueued. `params`: the same, as a graph's node takes it (`Graph.kernel`)."""

    def __init__(
        self,
        use: Kernels,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int | NDArray[Any]],
    ) -> None:
        self._name, function = name, use.function(name)
        self._shape = (function, *grid, *block, 0)
        self._held = [ctypes.c_uint64(given) if isinstance(given, int) else given for given in arguments]
        lie = (given.ctypes.data if isinstance(given, np.ndarray) else ctypes.addressof(given) for given in self._held)
        self._given = (ctypes.c_void_p * len(arguments))(*lie)
        self.params = graph.KernelParams(*self._shape, self._given, None)

    def __call__(self, stream: int) -> None:
        code = graph.libcuda().cuLaunchKernel(*self._shape, stream, self._given, None)
        graph.check(code, f"kernel {self._name}")


def kernels(card: Gpu) -> Kernels:
    """Those of this process's GPU, made at the first call. Raises as `cubin` and Kernels."""
    found: Kernels | None = getattr(card, "kernels", None)
    if found is None:
        with card:
            found = Kernels(cubin(card.sm))
        card.kernels = found
    return found


def cubin(sm: str) -> Path:
    """The kernels compiled for a compute capability ('8.7'), from the state folder or made now (a few seconds).

    The name holds a hash of the sources, so another version of edgesparse makes its own. Raises BackendUnavailable.
    """
    folder = device.state_folder() / "kernels"
    path = folder / f"sm_{sm.replace('.', '')}-{_digest()}.cubin"
    if path.exists():
        return path
    _log.info("compiling the frame path's kernels for compute capability %s, once", sm)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = compiled(sm, Path(place) / "frames.cubin")[0]
            made.chmod(0o600)
            made.replace(path)
    except OSError as error:
        raise BackendUnavailable(
            f"cannot keep the frame path's kernels in {folder} ({one_line(error)}): name another folder in "
            f"{device.STATE}"
        ) from None
    return path


def compiled(sm: str, out: Path, more: Sequence[str] = ()) -> tuple[Path, str]:
    """Run nvcc; the file and what it said (with `-Xptxas -v`, registers and spills). Raises BackendUnavailable."""
    command = [nvcc(), "-cubin", f"-arch=sm_{sm.replace('.', '')}", "-std=c++17", "-O3", *more]
    try:
        done = subprocess.run(
            [*command, str(SOURCES / "frames.cu"), "-o", str(out)],
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailable(f"{command[0]} does not run ({one_line(error)}): {_REMEDY}") from None
    if done.returncode:
        said = one_line(Exception((done.stderr or done.stdout).strip()))
        raise BackendUnavailable(f"{command[0]} cannot compile the frame path's kernels ({said}): {_REMEDY}")
    return out, done.stdout + done.stderr


_REMEDY = "install CUDA's compiler (on a Jetson: apt install cuda-nvcc-12-6 or your CUDA's version, and g++)"


def nvcc() -> str:
    """Where CUDA's compiler is; a Jetson does not have it on the PATH. Raises BackendUnavailable."""
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    found = shutil.which("nvcc") or next(
        (found for root in (*roots, "/usr/local/cuda") if (found := shutil.which("nvcc", path=f"{root}/bin"))), None
    )
    if found is None:
        raise BackendUnavailable(f"no nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda: {_REMEDY}")
    return found


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.cu*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
