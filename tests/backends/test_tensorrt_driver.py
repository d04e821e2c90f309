"""Whether TensorRT works here, the reason if not, and which plans may be loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgesparse.backends import BuildOptions
from edgesparse.backends.tensorrt import driver
from edgesparse.backends.tensorrt.driver import TensorRTBackend, import_remedy
from edgesparse.errors import BackendUnavailable

Fake = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Make this machine look like one with these modules and this GPU."""

    def make(version: str | None, gpu: tuple[str, str] = ("Orin", "8.7"), pycuda: bool = True) -> None:
        if version is not None:
            flags = SimpleNamespace(**({} if version.startswith("11") else {"FP16": 0}))
            module = SimpleNamespace(__version__=version, BuilderFlag=flags)
            monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(driver, "gpu", lambda: gpu)
        for name in ("pycuda", "pycuda.driver"):
            monkeypatch.setitem(sys.modules, name, SimpleNamespace() if pycuda else None)

    return make


def test_it_is_there(machine: Fake) -> None:
    machine("8.5.2.2")
    available = TensorRTBackend().probe()
    assert available.ok and available.version == "8.5.2.2"
    assert TensorRTBackend().identity().items() >= {"tensorrt": "8.5.2.2", "compute capability": "8.7"}.items()
    assert TensorRTBackend().dense_because() is None and not TensorRTBackend().strongly_typed()


@pytest.mark.parametrize(
    ("here", "reason", "remedy"),
    [
        ({"version": "8.2.1"}, "TensorRT 8.2.1 is too old", "8.5 or later"),
        ({"version": "10.3.0", "gpu": ("", "")}, "no NVIDIA GPU", "nvidia-smi"),
        ({"version": "10.3.0", "pycuda": False}, "pycuda", r"edgesparse\[jetson\]"),
    ],
)
def test_what_is_missing_is_said_with_what_mends_it(
    machine: Fake, here: dict[str, object], reason: str, remedy: str, tmp_path: Path
) -> None:
    machine(**here)
    available = TensorRTBackend().probe()
    assert not available.ok and reason in available.reason
    with pytest.raises(BackendUnavailable, match=remedy) as caught:
        TensorRTBackend().build(tmp_path / "m.onnx", tmp_path / "m.engine", BuildOptions())
    assert caught.value.exit_code == 3
    with pytest.raises(BackendUnavailable, match=remedy):
        TensorRTBackend().load(tmp_path / "m.engine")


def test_a_library_that_a_thin_system_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
    (tmp_path / "tensorrt.py").write_text(f"raise ImportError({missing!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    available = TensorRTBackend().probe()
    assert available.reason == missing and available.remedy == "apt install nvidia-l4t-dla-compiler"
    assert "LD_LIBRARY_PATH" in import_remedy("libnvinfer.so.10: cannot open shared object file")


def test_bindings_of_the_systems_python(tmp_path: Path) -> None:
    assert import_remedy("No module named 'tensorrt'", tmp_path) == (
        "apt install python3-libnvinfer (part of nvidia-jetpack)"
    )
    (tmp_path / "python3.8/dist-packages/tensorrt").mkdir(parents=True)
    assert import_remedy("No module named 'tensorrt'", tmp_path) == (
        f"it is installed for python3.8, this is Python 3.{sys.version_info.minor}: use /usr/bin/python3.8"
    )
    (tmp_path / "python3.8").rename(tmp_path / f"python3.{sys.version_info.minor}")
    assert "--system-site-packages" in import_remedy("No module named 'tensorrt'", tmp_path)


def test_ways_that_a_release_knows(machine: Fake) -> None:
    machine("11.4.0.106")
    assert TensorRTBackend().ways() == ("fp32", "fp16", "int8-qdq", "int8-qdq-sparse")
    assert TensorRTBackend().strongly_typed()
    machine("10.3.0", gpu=("Xavier", "7.2"))
    assert "int8-table" in TensorRTBackend().ways()
    assert TensorRTBackend().dense_because() == "2:4 kernels need compute capability 8.0 or later, found 7.2"


def test_a_plan_of_another_release_or_gpu_is_refused(machine: Fake) -> None:
    machine("8.5.2.2")
    engine = TensorRTBackend()
    here = engine.identity()
    assert engine.refuses(here) is None
    reason = engine.refuses(here | {"tensorrt": "8.5.2.1", "L4T": "35.4.1"})
    assert reason == "found tensorrt 8.5.2.2, L4T none, needed tensorrt 8.5.2.1, L4T 35.4.1"
