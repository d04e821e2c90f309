"""What several tests share: the real model, pictures and videos that stand beside a checkout, read by path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("EDGESPARSE_REAL", Path(__file__).parents[2] / "shared" / "real"))


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data; tests that need it skip where it is absent."""
    if not (REAL / "models" / "yolox_nano.onnx").is_file():
        pytest.skip(f"no real data in {REAL}")
    return REAL


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds that don't spend a second on timing the engine."""
    monkeypatch.setattr("edgesparse.build.select.TIMING_SECONDS", 0.0)
