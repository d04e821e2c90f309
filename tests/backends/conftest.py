"""A fake GPU for the tests that need one."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fake_gpu import Fake
from fake_kernels import host_kernels

from edgesparse.backends.cuda import gpu, graph, kernels


@pytest.fixture(scope="module", autouse=True)
def older_objects() -> Iterator[None]:
    """What other tests left in memory is not searched each time that a test collects its own garbage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A GPU that pycuda and the driver's library report."""
    fake = Fake(integrated=request.param)
    package = ModuleType("pycuda")
    package.driver = fake.driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake.driver)
    monkeypatch.setattr(gpu, "_gpus", [])
    monkeypatch.setattr(graph, "libcuda", lambda: fake.libcuda)
    monkeypatch.setattr("edgesparse.device.available_memory", lambda: fake.room)
    yield fake
    gc.collect()
    assert getattr(fake.threads, "depth", 0) == 0, "a context was left behind"


@pytest.fixture
def host_built_kernels(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels, built for the CPU. A test must free everything that it allocates on the GPU."""
    host_kernels()
    (tmp_path / "frames.cubin").write_bytes(b"kernels")
    monkeypatch.setattr(kernels, "cubin", lambda sm: tmp_path / "frames.cubin")
    yield
    gc.collect()
    assert not fake.memory and not fake.created and fake.streams == 0, "memory was not freed"
    assert not fake.events, "an event was left behind"
