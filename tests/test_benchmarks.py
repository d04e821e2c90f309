"""Benchmarks are rarely run, and by hand: they are imported here, and scripts/check checks their types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_case_of_the_ladder_that_is_measured_again_leaves_the_other_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import common, ladder

    before = {"date": "2020-01-01", "yolox_nano": {"rungs": [1]}, "parts": {"rungs": [2]}, "stepwise": {"parts": {}}}
    (tmp_path / "ladder.json").write_text(json.dumps(before))
    for module in (common, ladder):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(ladder, "PLOT", tmp_path / "ladder.svg")
    monkeypatch.setattr(ladder, "plot", lambda results: " ".join(results))
    monkeypatch.setattr(ladder, "measure", lambda case, arguments: {"rungs": [3]})
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--case", "parts", "--save"])
    ladder.main()
    after = json.loads((tmp_path / "ladder.json").read_text())
    assert (after["yolox_nano"], after["stepwise"]) == (before["yolox_nano"], before["stepwise"])
    assert after["parts"]["rungs"] == [3] and after["date"] != before["date"]
    assert (tmp_path / "ladder.svg").read_text() == "yolox_nano parts"


def test_every_benchmark_can_be_imported() -> None:
    """Without TensorRT, pycuda or PyTorch, which are only imported where they are used."""
    names = sorted(f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py"))
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    failed = "\n".join(f"{name}: {error}" for name, error in json.loads(done.stdout).items())
    assert len(names) > 1 and not failed, failed
