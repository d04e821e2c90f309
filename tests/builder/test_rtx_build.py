"""A whole build on TensorRT-RTX without a GPU: only running, and therefore timing, is skipped."""

from __future__ import annotations

import importlib.util
from math import inf
from pathlib import Path

import pytest

from edgesparse.backends import backend
from edgesparse.builder.attempts import CandidateBuilder
from edgesparse.builder.candidates import parse_plan, plan_candidates
from edgesparse.builder.child.job import Scoring
from edgesparse.builder.child.memory import Budget
from edgesparse.builder.child.process import Workers
from edgesparse.builder.compare import Comparison
from edgesparse.builder.onnx_files import OnnxFiles
from edgesparse.builder.pack import pack
from edgesparse.builder.phases import Phases
from edgesparse.builder.prepare import Build, prepare
from edgesparse.config import Recipe, parse
from edgesparse.errors import SignatureError
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import sha256
from edgesparse.package.store import Store, open_package
from edgesparse.progress import Progress, quiet

INSTALLED = importlib.util.find_spec("tensorrt_rtx_bindings") or importlib.util.find_spec("tensorrt_rtx")
pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(INSTALLED is None, reason="needs TensorRT-RTX: pip install 'edgesparse[rtx]'"),
]


def started(recipe: Recipe, folder: Path, progress: Progress) -> tuple[Build, CandidateBuilder]:
    folder.mkdir()
    target, memory = backend("tensorrt-rtx"), Budget(3_000_000_000, "host", True)
    workers = Workers(target, folder, "host", inf, progress)
    build = Build(recipe, target, folder, prepare(recipe, folder), workers, memory)
    return build, CandidateBuilder(build, OnnxFiles(build), 0.0, Scoring())


def test_every_candidate_is_built_in_a_child_and_packed(sparse_model: Path, labels: Path, tmp_path: Path) -> None:
    settings = {"backend": "tensorrt-rtx", "memory": "3 GB"}
    recipe = parse(
        {"model": str(sparse_model), "build": settings, "calibrate": {"images": str(labels.parent)}}, "recipe"
    )
    steps = set[str]()
    build, builder = started(recipe, tmp_path / "work", lambda step, *_: steps.add(step))
    plans = plan_candidates(recipe, build.backend, build.prepared).possible
    attempts = {plan.name: builder.attempt(plan, None) for plan in plans}
    ways = ["fp32", "fp16", "fp16-2:4", "int8-qdq", "int8-qdq-2:4", "int8-qdq-sparse", "int8-qdq-sparse-2:4"]
    assert sorted(attempts, key=ways.index) == ways
    for name, attempt in attempts.items():
        assert attempt.result is not None, attempt.reason
        assert attempt.result.path.stat().st_size > 1000 and attempt.result.precision == attempt.plan.precision
        assert ("sparsity" in attempt.result.command) == name.endswith("2:4")
        assert attempt.spent.host > 50_000_000
        if not _runs_here():
            assert "was built and cannot run: TensorRT-RTX runs on compute capability" in attempt.reason
    assert {f"building {name}" for name in ways} <= steps
    check_package(
        tmp_path, Comparison(build, tuple(attempts.values()), attempts["fp16"], attempts["fp32"], (), (), "", Phases())
    )


def test_a_range_of_batches_becomes_one_profile(sparse_model: Path, labels: Path, tmp_path: Path) -> None:
    settings = {"backend": "tensorrt-rtx", "batch": {"min": 1, "opt": 2, "max": 4}, "memory": "3 GB"}
    recipe = parse(
        {"model": str(sparse_model), "build": settings, "calibrate": {"images": str(labels.parent)}}, "recipe"
    )
    _, builder = started(recipe, tmp_path / "work", quiet)
    for name in ("fp16", "int8-qdq-sparse-2:4"):
        attempt = builder.attempt(parse_plan(name), None)
        assert attempt.result is not None
        assert "--minShapes=images:1x3x64x64 --optShapes=images:2x3x64x64" in attempt.result.command
        assert "--maxShapes=images:4x3x64x64" in attempt.result.command


def check_package(root: Path, comparison: Comparison) -> None:
    """It carries this device's keyed hash, and is refused without it before anything is loaded."""
    store = Store(root, "squares")
    hashes = {"model": "0" * 64, "labels": None, "calibration": None}
    with store.lock(), store.writing("aaa", 0) as folder:
        pack(folder, comparison, "aaa", hashes)
    package = open_package(root / "squares/aaa")
    assert package.engine.stat().st_mode & 0o777 == 0o600 and package.fallback.name == "fallback.engine"
    assert package.manifest.files["model.engine"] == sha256(package.engine)
    manifests.write(package.folder, package.manifest.model_copy(update={"model": "another"}))
    with pytest.raises(SignatureError, match="found the keyed hash"):
        open_package(root / "squares/aaa")


def _runs_here() -> bool:
    from edgesparse.backends.tensorrt.driver import gpu
    from edgesparse.backends.tensorrt.rtx import RUNS_ON

    return gpu()[1] in RUNS_ON
