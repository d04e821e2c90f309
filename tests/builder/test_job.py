"""Jobs and results survive a round trip through JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edgesparse.backends import BuildOptions, BuildResult, TensorSpec
from edgesparse.backends.base import EngineLayer, Limits
from edgesparse.builder.child import job as jobs
from edgesparse.builder.child import worker
from edgesparse.builder.child.job import (
    BuildJob,
    Int8Files,
    Job,
    QuantizeJob,
    RaceJob,
    RaceResult,
    ScoreTarget,
    Scoring,
    TrialJob,
    TrialResult,
    from_json,
    read_job,
    to_json,
    write_job,
)
from edgesparse.builder.child.timing import Timing
from edgesparse.builder.child.worker import TASKS
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.package.manifest import AgreementRecord, Score

SPEC = DetectorSpec(head="yolov8", classes=("a", "b"), input=InputSpec(size=(64, 32), mean=(1.0, 2.0, 3.0)))
TIMING = Timing(1.5, 1.25, 2.0, 0.25, 10)
JOBS: list[Job[Any]] = [
    BuildJob(
        "null",
        Path("a b.onnx"),
        Path("/x/é.engine"),
        BuildOptions(table=Path("t"), profile=(1, 2, 4), limits=Limits(workspace=5), timing_cache=Path("c")),
    ),
    TrialJob("null", "fp16", Path("e"), SPEC, 0.5, 2, 1, Scoring(Path("l.json"), Path("images"))),
    TrialJob("null", "fp16", Path("e"), SPEC, 0.5, scoring=Scoring(reference=Path("r"), run=Run(conf={"a": 0.5}))),
    RaceJob("null", {"fp32": Path("a"), "fp16-2:4": Path("b")}, 1.0, dla=0),
    QuantizeJob(Path("m"), Path("f"), SPEC, Path("i"), 9, 2, ScoreTarget(Path("l"), Path("i"), 37.5)),
]
RESULTS: list[Any] = [
    BuildResult(Path("e"), "int8", 1.5, (EngineLayer("l", "k", True, ("n",)),), ("l",), degraded=("tactic skipped",)),
    TrialResult((TensorSpec("i", (1, 3), "uint8"),), (), TIMING, Score(map=1.5, map50=2.0)),
    TrialResult((), (), TIMING, None, AgreementRecord(recall=1, precision=0.5, iou=1, score_mean=0, boxes=3, images=2)),
    RaceResult({"fp32": TIMING}, "1 GHz"),
    Int8Files(Path("a"), Path("b"), Path("c"), Path("d"), ("note",)),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_is_read_as_it_was_written(job: Job[Any], tmp_path: Path) -> None:
    write_job(job, tmp_path / "job.json")
    assert read_job(tmp_path / "job.json", TASKS) == (job, os.getpid())
    assert (tmp_path / "job.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_is_read_as_it_was_sent(result: Any) -> None:
    assert from_json(type(result), to_json(result)) == result


def test_every_job_has_a_task_an_example_and_a_result_here() -> None:
    kinds = {kind for kind in vars(jobs).values() if isinstance(kind, type) and issubclass(kind, Job)} - {Job}
    assert kinds == set(TASKS) == {type(job) for job in JOBS}
    assert {kind.returns for kind in kinds} == {type(result) for result in RESULTS}


def test_where_memory_runs_out_a_build_ends_before_the_service(tmp_path: Path) -> None:
    """The unit raises the service's own score to 200: a build of a deploy, with 0, was spared instead."""
    write_job(JOBS[0], tmp_path / "job.json")

    def task(job: Any, progress: Any) -> Any:
        (tmp_path / "score").write_text(Path("/proc/self/oom_score_adj").read_text())
        return RESULTS[0]

    child = os.fork()
    if child == 0:
        sys.argv[1:] = [str(tmp_path / "job.json")]
        worker.main({BuildJob: task})
    os.waitpid(child, 0)
    assert (tmp_path / "score").read_text() == "1000\n"
