"""The kernels of the frame path: compiled by nvcc for this GPU at first use, stored, loaded and launched."""

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
    """Compiled kernels, loaded onto the GPU until the process ends. Create it with the context current.

    Raises BackendUnavailable if they cannot be loaded.
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
            function = ctypes.c_void_p()
            code = graph.libcuda().cuModuleGetFunction(ctypes.byref(function), self._module, name.encode())
            graph.check(code, f"no kernel {name}")
            self._functions[name] = function
        return self._functions[name]


class Launch:
    """A kernel with its grid, block and arguments.

    Arguments are addresses on the GPU, or structures, which are passed by value when the kernel is enqueued. `params`:
    the same for a node of a graph (`Graph.kernel_update`).
    """

    def __init__(
        self,
        kernels: Kernels,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int | NDArray[Any]],
    ) -> None:
        self._name, function = name, kernels.function(name)
        self._shape = (function, *grid, *block, 0)
        self._held = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
        addresses = (a.ctypes.data if isinstance(a, np.ndarray) else ctypes.addressof(a) for a in self._held)
        self._arguments = (ctypes.c_void_p * len(arguments))(*addresses)
        self.params = graph.KernelParams(*self._shape, self._arguments, None)

    def __call__(self, stream: int) -> None:
        code = graph.libcuda().cuLaunchKernel(*self._shape, stream, self._arguments, None)
        graph.check(code, f"kernel {self._name}")


def kernels(gpu: Gpu) -> Kernels:
    """The kernels of this process's GPU, loaded at the first call. Raises what `cubin` and Kernels raise."""
    loaded: Kernels | None = getattr(gpu, "kernels", None)
    if loaded is None:
        with gpu:
            loaded = Kernels(cubin(gpu.sm))
        gpu.kernels = loaded
    return loaded


def cubin(sm: str) -> Path:
    """The kernels compiled for a compute capability ('8.7'): from the state folder, or compiled now in a few seconds.

    The name contains a hash of the sources, so each version of edgesparse has its own. Raises BackendUnavailable.
    """
    folder = device.state_folder() / "kernels"
    path = folder / f"sm_{sm.replace('.', '')}-{_digest()}.cubin"
    if path.exists():
        return path
    _log.info("compiling the frame path's kernels for compute capability %s, once", sm)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = compiled(sm, Path(temporary) / "frames.cubin")[0]
            new.chmod(0o600)
            new.replace(path)
    except OSError as error:
        raise BackendUnavailable(
            f"cannot store the frame path's kernels in {folder} ({one_line(error)}): name another folder in "
            f"{device.STATE}"
        ) from None
    return path


def compiled(sm: str, out: Path, more: Sequence[str] = ()) -> tuple[Path, str]:
    """Run nvcc. Returns the file and nvcc's output, with `-Xptxas -v` registers and spills. BackendUnavailable."""
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
        message = one_line(Exception((done.stderr or done.stdout).strip()))
        raise BackendUnavailable(f"{command[0]} cannot compile the frame path's kernels ({message}): {_REMEDY}")
    return out, done.stdout + done.stderr


_REMEDY = "install CUDA's compiler (on a Jetson: apt install cuda-nvcc-12-6 or your CUDA's version, and g++)"


def nvcc() -> str:
    """The path of CUDA's compiler, which is not in PATH on a Jetson. Raises BackendUnavailable."""
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    compiler = shutil.which("nvcc")
    for root in (*roots, "/usr/local/cuda"):
        compiler = compiler or shutil.which("nvcc", path=f"{root}/bin")
    if compiler is None:
        raise BackendUnavailable(f"no nvcc in PATH, in CUDA_HOME or in /usr/local/cuda: {_REMEDY}")
    return compiler


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.cu*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
