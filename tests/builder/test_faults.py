"""Faults from outside a build: one line, nothing half-written, and the old package still runs."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import squares
from null_plans import Plan

from edgesparse.backends import BuildOptions, BuildResult, backend
from edgesparse.builder.build import build
from edgesparse.builder.child import process
from edgesparse.builder.child.job import BuildJob, JobResult
from edgesparse.builder.child.process import Workers
from edgesparse.builder.targets import open_detector
from edgesparse.config import Recipe, parse
from edgesparse.errors import ManifestMismatch, PackageError
from edgesparse.package.store import Package, open_package

pytestmark = pytest.mark.usefixtures("quick")

BUILDER = """
import sys
from pathlib import Path
from edgesparse.cli import main
main(["build", "recipe.yaml"])
"""


def recipe(model: Path, only: str = "fp16", **settings: object) -> Recipe:
    return parse({"model": str(model), "build": {"backend": "null", "candidates": [only]}, **settings}, "recipe")


def packed(model: Path) -> Package:
    return build(recipe(model, "fp32"), model.parent / "engines").package


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "engines/squares").iterdir() if path.name != ".lock")


def started(folder: Path) -> subprocess.Popen[str]:
    """A build in its own process, while it builds its first candidate."""
    (folder / "recipe.yaml").write_text("model: squares.onnx\nbuild: {backend: null, candidates: [fp16]}\n")
    text = (folder / "recipe.yaml").read_text().replace("null", "'null'")
    (folder / "recipe.yaml").write_text(text)
    command = [sys.executable, "-c", BUILDER]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "trying tactics" not in process.stderr.readline():
        assert process.poll() is None
    return process


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def missing(pid: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "SIGKILL"]
)
def test_a_terminated_build_ends_its_child(model: Path, planned: Plan, number: int) -> None:
    planned()
    old = packed(model)
    planned({"fp16": {"hang": 600}})
    process = started(model.parent)
    (child,) = children(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert missing(child)
    if number != signal.SIGKILL:
        assert process.returncode == 130 and err.strip().endswith("edgesparse: interrupted")
        assert left(model.parent) == sorted([old.folder.name, "current"])
    assert open_package(model.parent / "engines").folder == old.folder
    packed(model)
    assert left(model.parent) == sorted([old.folder.name, "current"])


def test_a_child_killed_from_outside_is_built_again(model: Path, planned: Plan) -> None:
    planned({"fp16": {"hang": 2}})
    process = started(model.parent)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (candidate,) = open_package(model.parent / "engines").manifest.candidates
    assert candidate.outcome == "chosen" and candidate.rung == 1


def test_a_second_build_is_refused_with_the_process_of_the_first(model: Path, planned: Plan) -> None:
    planned({"fp16": {"hang": 600}})
    process = started(model.parent)
    with pytest.raises(PackageError, match=f"process {process.pid} is already building squares"):
        build(recipe(model, "fp32"), model.parent / "engines")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


# A single child

Run = Callable[..., JobResult[BuildResult]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Builds with the null backend in a child."""
    folder = tmp_path / "work"
    folder.mkdir()

    def build_one(limit: int | None = None, deadline: float = float("inf")) -> JobResult[BuildResult]:
        workers = Workers(backend("null"), folder, "host", deadline, lambda *_: None)
        job = BuildJob("null", Path("model.onnx"), folder / "out.json", BuildOptions(precision="fp16"))
        before = resource.getrlimit(resource.RLIMIT_AS)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            return workers.run(job)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    return build_one


def test_refused_memory_is_distinguished_from_a_crash(planned: Plan, run: Run) -> None:
    """The child inherits the limit; the parent allocates nothing while it applies."""
    planned(megabytes=30_000)
    ended = run(limit=20_000_000_000)
    assert ended.how == "memory" and "was refused memory" in str(ended.error)
    assert "MemoryError" in str(ended.error)


def test_a_silent_child_is_stopped_at_the_deadline(planned: Plan, run: Run) -> None:
    planned(hang=600)
    ended = run(deadline=time.monotonic() + 1)
    assert ended.how == "time" and str(ended.error) == "stopped at the time limit"


def test_a_hanging_child_is_stopped_without_a_deadline(
    planned: Plan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STUCK", 3.0)
    monkeypatch.setattr(process, "SOME_CPU", 0.02)
    planned(hang=600)
    ended = run()
    assert ended.how == "hang"
    assert str(ended.error) == "stopped after 3 s in which it neither made progress nor used the CPU"


def test_cpu_time_is_that_of_the_process() -> None:
    begun, wall = process._cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < wall + 0.1:
        pass
    assert 0.05 < process._cpu_seconds(os.getpid()) - begun < 5
    assert process._cpu_seconds(2**22 + 1) == 0


def test_a_crash_is_reported_with_its_signal(planned: Plan, run: Run) -> None:
    planned(crash=int(signal.SIGSEGV))
    ended = run()
    assert ended.how == "crash" and "crashed (SIGSEGV)" in str(ended.error)


def test_a_module_in_the_users_folder_does_not_shadow_the_librarys(
    planned: Plan, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    planned()
    assert run().how == "done"


# Disks and files


@pytest.mark.root
def test_a_disk_that_fills_up_while_an_engine_is_written(model: Path, planned: Plan, small_disk: Path) -> None:
    planned({"fp32": {"values": {"output0": np.zeros((1, 6, squares.CELLS)).tolist()}}})
    old = build(recipe(model, "fp32"), small_disk).package
    planned({"fp16": {"values": {"output0": [[[0.123456789] * 84] * 6] * 800}}})
    with pytest.raises(PackageError, match=r"no space left in .*--store"):
        build(recipe(model, "fp16"), small_disk)
    assert open_package(small_disk).folder == old.folder
    assert not list((small_disk / "squares").glob(".unfinished*"))


def test_the_fallback_runs_where_the_engine_cannot_be_loaded(
    model: Path, planned: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    planned({"fp32": {"seconds": 0.01}})
    recipe = parse({"model": str(model), "build": {"backend": "null", "candidates": ["fp32", "fp16"]}}, "recipe")
    package = build(recipe, model.parent / "engines").package
    assert package.manifest.precision == "fp16"
    with open_detector(package) as detector:
        assert detector.precision == "fp16" and detector.notice == ""
    package.engine.write_text("{}")
    with open_detector(package) as detector:
        assert detector.precision == "fp32"
        assert detector.notice.startswith("the fallback fallback.json (fp32) runs, since ")
    assert "the fallback fallback.json (fp32) runs" in caplog.text
    with pytest.raises(ManifestMismatch, match=r"model.json is changed"):
        open_package(package.folder)


def test_an_engine_of_another_release_is_refused_with_found_and_needed(model: Path, planned: Plan) -> None:
    planned()
    package = packed(model)
    content = json.loads((package.folder / "manifest.json").read_text())
    content["identity"] = {"null": "0.9"}
    (package.folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ManifestMismatch, match=r"found .*1.0.*, needed .*0.9.*: build it here with 'edgesparse build"):
        open_package(package.folder)
