"""TensorRT 8.5 to 11 of JetPack or a PC. Plans are built on the device that runs them and contain native code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.backends.base import Availability, Backend, BuildOptions, BuildResult, EngineLayer, Runner
from edgesparse.config import Way
from edgesparse.errors import BackendUnavailable
from edgesparse.progress import Progress, quiet

LEAST_RELEASE = (8, 5)


class TensorRTBackend(Backend):
    name = "tensorrt"
    suffix = ".engine"
    open_batch = True
    native_code = True

    def probe(self) -> Availability:
        try:
            import tensorrt as trt
        except ImportError as error:
            return Availability(False, reason=_one_line(error), remedy=import_remedy(str(error)))
        version = str(trt.__version__)
        if tuple(int(part) for part in version.split(".")[:2]) < LEAST_RELEASE:
            return Availability(False, version, f"TensorRT {version} is too old", "needed 8.5 or later: JetPack 5.1")
        if not gpu()[0]:
            return Availability(False, version, "no NVIDIA GPU found", "nvidia-smi must show one: check the driver")
        try:
            import pycuda.driver  # noqa: F401
        except ImportError as error:
            remedy = (
                "pip install 'edgesparse[jetson]', which needs nvcc in PATH (apt install cuda-nvcc cuda-cudart-dev)"
            )
            return Availability(False, version, f"pycuda: {_one_line(error)}", remedy)
        return Availability(True, version)

    def ways(self) -> tuple[Way, ...]:
        if self.strongly_typed():
            return ("fp32", "fp16", "int8-qdq", "int8-qdq-sparse")
        return ("fp32", "fp16", "int8-table", "int8-tensorrt", "int8-qdq", "int8-qdq-sparse")

    def dense_because(self) -> str | None:
        from edgesparse.backends.tensorrt.network import dense_because

        return dense_because(gpu()[1])

    def strongly_typed(self) -> bool:
        from edgesparse.backends.tensorrt.network import strongly_typed

        return strongly_typed(_import())

    def chooses_image_layout(self) -> bool:
        """Where the frame path's kernels can be compiled: without them, the CPU would have to write that layout."""
        from edgesparse.backends.cuda.kernels import nvcc

        try:
            return bool(nvcc())
        except BackendUnavailable:
            return False

    def build(self, onnx: Path, out: Path, options: BuildOptions, progress: Progress = quiet) -> BuildResult:
        """For INT8 from images, the calibration table is stored next to `out` with the suffix .calibration."""
        from edgesparse.backends.tensorrt import build

        self._require()
        return build.build(_import(), onnx, out, options, gpu()[1], progress)

    def load(self, path: Path, threads: int = 0, dla: int | None = None) -> Runner:
        from edgesparse.backends.tensorrt.runner import TensorRTRunner

        self._require()
        return TensorRTRunner(_import(), path, dla=dla)

    def layers(self, path: Path) -> tuple[EngineLayer, ...]:
        """The kernels of a plan's layers. Opening a plan runs its code: open only plans built on this device.

        Raises BuildError for a plan that cannot be opened, BackendUnavailable.
        """
        from edgesparse.backends.tensorrt import inspect

        self._require()
        trt = _import()
        return inspect.parse(inspect.information(trt, inspect.read_plan(trt, path).engine))

    def identity(self) -> dict[str, str]:
        """A plan runs only on the GPU it was built for, with the release that built it."""
        machine = device.probe()
        name, sm = gpu()
        identity = {
            "tensorrt": self.probe().version,
            "compute capability": sm,
            "GPU": name,
            "L4T": machine.l4t,
            "driver": machine.driver,
        }
        return {key: value for key, value in identity.items() if value}

    def refuses(self, built: Mapping[str, str]) -> str | None:
        return differs(self.identity(), built)

    def _require(self) -> None:
        available = self.probe()
        if not available.ok:
            raise BackendUnavailable(f"TensorRT does not work here ({available.reason}): {available.remedy}")


@lru_cache(1)
def gpu() -> tuple[str, str]:
    """Name and compute capability of the first GPU, without creating a context; empty without a GPU."""
    machine = device.probe()
    if machine.gpu and machine.sm:
        return machine.gpu, machine.sm
    try:
        import pycuda.driver as cuda

        cuda.init()
        first = cuda.Device(0)
    except Exception:  # no driver, no GPU, or no pycuda: `probe` reports which
        return machine.gpu, machine.sm
    return str(first.name()), ".".join(map(str, first.compute_capability()))


def differs(actual: Mapping[str, str], needed: Mapping[str, str]) -> str | None:
    """The differences between two identities as 'found X, needed Y'; None if there are none."""
    keys = [key for key in {**needed, **actual} if actual.get(key) != needed.get(key)]
    if not keys:
        return None
    here, expected = (", ".join(f"{key} {of.get(key) or 'none'}" for key in keys) for of in (actual, needed))
    return f"found {here}, needed {expected}"


def import_remedy(error: str, system: Path = Path("/usr/lib")) -> str:
    """How to make `import tensorrt` work: JetPack's bindings are for the system's Python of one minor version."""
    if "libnvdla_compiler" in error:
        return "apt install nvidia-l4t-dla-compiler"
    if "libnvinfer" in error or "libnvonnxparser" in error:
        return "apt install libnvinfer-bin libnvonnxparsers-dev, or name the libraries' folder in LD_LIBRARY_PATH"
    for folder in sorted(system.glob("python3*/dist-packages/tensorrt")):
        minor = folder.parent.parent.name
        if minor in ("python3", f"python3.{sys.version_info.minor}"):
            return "it is installed: create the venv with /usr/bin/python3 -m venv --system-site-packages"
        return f"it is installed for {minor}, this is Python 3.{sys.version_info.minor}: use /usr/bin/{minor}"
    return "apt install python3-libnvinfer (part of nvidia-jetpack)"


def _import() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise BackendUnavailable(f"TensorRT: {_one_line(error)}: {import_remedy(str(error))}") from None
    return tensorrt


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
