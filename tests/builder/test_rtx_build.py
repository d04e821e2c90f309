"""The whole of a build on TensorRT-RTX, without a GPU: only running, and so timing, is left out."""

from __future__ import annotations

import importlib.util
from math import inf
from pathlib import Path

import pytest

from edgesparse.backends import backend
from edgesparse.builder.attempts import Attempts, Tried
from edgesparse.builder.candidates import parse as parse_plan
from edgesparse.builder.candidates import plan
from edgesparse.builder.child.memory import Budget
from edgesparse.builder.child.process import Workers
from edgesparse.builder.contest import Contest
from edgesparse.builder.onnx_files import Sources
from edgesparse.builder.pack import pack
from edgesparse.builder.prepare import prepare
from edgesparse.config import parse
from edgesparse.errors import SignatureError
from edgesparse.package import manifest as manifests
from edgesparse.package.manifest import sha256
from edgesparse.package.store import Store, open_package

THERE = importlib.util.find_spec("tensorrt_rtx_bindings") or importlib.util.find_spec("tensorrt_rtx")
pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(THERE is None, reason="no TensorRT-RTX: pip install 'edgesparse[rtx]'"),
]


def test_every_candidate_is_built_in_a_child_and_packed(sparse_model: Path, labels: Path, tmp_path: Path) -> None:
    said = {"backend": "tensorrt-rtx", "memory": "3 GB"}
    recipe = parse({"model": str(sparse_model), "build": said, "calibrate": {"images": str(labels.parent)}}, "recipe")
    engine, folder, steps = backend("tensorrt-rtx"), tmp_path / "work", set[str]()
    folder.mkdir()
    prepared = prepare(recipe, folder)
    budget = Budget(3_000_000_000, "host", True)
    workers = Workers(engine, folder, "host", inf, lambda step, *_: steps.add(step))
    sources = Sources(recipe, engine, prepared, folder, workers)
    attempts = Attempts(recipe, engine, prepared, sources, workers, budget)
    tried: dict[str, Tried] = {}
    for one in plan(recipe, engine, prepared).wanted:
        tried[one.name] = attempts.attempt(one, None, {"spec": prepared.spec.model_dump_json(), "seconds": 0.0})
    ways = ["fp32", "fp16", "fp16-2:4", "int8-qdq", "int8-qdq-2:4", "int8-qdq-sparse", "int8-qdq-sparse-2:4"]
    assert list(tried) == ways
    for name, one in tried.items():
        assert one.result is not None, one.reason
        assert one.result.path.stat().st_size > 1000 and one.result.precision == one.plan.precision
        assert ("sparsity" in one.result.command) == name.endswith("2:4")
        assert one.spent.host > 50_000_000
        if not _runs_here():
            assert "was built and cannot run: TensorRT-RTX runs on compute capability" in one.reason
    assert {f"building {name}" for name in ways} <= steps
    package(
        tmp_path, Contest(prepared, budget, tuple(tried.values()), tried["fp16"], tried["fp32"], (), (), ""), recipe
    )


def test_a_range_of_batches_becomes_one_profile(sparse_model: Path, labels: Path, tmp_path: Path) -> None:
    said = {"backend": "tensorrt-rtx", "batch": {"min": 1, "opt": 2, "max": 4}, "memory": "3 GB"}
    recipe = parse({"model": str(sparse_model), "build": said, "calibrate": {"images": str(labels.parent)}}, "recipe")
    engine, folder = backend("tensorrt-rtx"), tmp_path / "work"
    folder.mkdir()
    prepared = prepare(recipe, folder)
    workers = Workers(engine, folder, "host", inf, lambda *_: None)
    sources = Sources(recipe, engine, prepared, folder, workers)
    attempts = Attempts(recipe, engine, prepared, sources, workers, Budget(3_000_000_000, "host", True))
    for name in ("fp16", "int8-qdq-sparse-2:4"):
        one = attempts.attempt(parse_plan(name), None, {"spec": prepared.spec.model_dump_json(), "seconds": 0.0})
        assert one.result is not None, one.reason
        assert "--minShapes=images:1x3x64x64 --optShapes=images:2x3x64x64" in one.result.command
        assert "--maxShapes=images:4x3x64x64" in one.result.command


def package(root: Path, contest: Contest, recipe: object) -> None:
    """It carries this device's mark, and is refused without it before anything is loaded."""
    store = Store(root, "squares")
    hashes = {"model": "0" * 64, "labels": None, "calibration": None}
    with store.lock(), store.writing("aaa", 0) as folder:
        pack(folder, contest, recipe, backend("tensorrt-rtx"), "aaa", hashes)  # type: ignore[arg-type]
    found = open_package(root / "squares/aaa")
    assert found.engine.stat().st_mode & 0o777 == 0o600 and found.fallback.name == "fallback.engine"
    assert found.manifest.files["model.engine"] == sha256(found.engine)
    manifests.write(found.folder, found.manifest.model_copy(update={"model": "another"}))
    with pytest.raises(SignatureError, match="found the keyed hash"):
        open_package(root / "squares/aaa")


def _runs_here() -> bool:
    from edgesparse.backends.tensorrt.rtx import RUNS_ON, gpu

    return gpu()[1] in RUNS_ON
