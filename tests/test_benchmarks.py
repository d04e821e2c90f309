"""Benchmarks are rarely run, and by hand: they are imported here, and scripts/check checks their types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""


def test_every_benchmark_can_be_imported() -> None:
    """Without TensorRT, pycuda or PyTorch, which are only imported where they are used."""
    names = sorted(f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py"))
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    failed = "\n".join(f"{name}: {error}" for name, error in json.loads(done.stdout).items())
    assert len(names) > 1 and not failed, failed
