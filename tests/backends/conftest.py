"""A GPU of our own making, for the tests that want one."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from fake_gpu import Fake

from edgesparse.backends.cuda import gpu, graph


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A GPU that pycuda and the driver's library tell of."""
    fake = Fake(integrated=request.param)
    package = ModuleType("pycuda")
    package.driver = fake.driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake.driver)
    monkeypatch.setattr(gpu, "_found", [])
    monkeypatch.setattr(graph, "libcuda", lambda: fake.libcuda)
    monkeypatch.setattr("edgesparse.device.available_memory", lambda: fake.room)
    yield fake
    gc.collect()
    assert getattr(fake.threads, "depth", 0) == 0, "a context was left behind"
