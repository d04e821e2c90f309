"""Fixtures for testing the promises: the helpers of tests/service, and a package of the null backend."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import packages
import pytest

sys.path += [str(Path(__file__).resolve().parents[1] / room) for room in ("service", "stream")]


@pytest.fixture(scope="session")
def null_engine(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Path:
    """A package whose engine detects one red box in every frame."""
    boxes = [[[float(value)] * 84 for value in (32, 32, 16, 16, 0.9, 0.0)]]
    plan = {
        "inputs": [["images", [1, 3, 64, 64], "float32"]],
        "outputs": [["output0", [1, 6, 84], "float32"]],
        "values": {"output0": boxes},
    }
    return packages.stored(tmp_path_factory.mktemp("null"), text=json.dumps(plan))
