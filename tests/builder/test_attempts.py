"""Which rungs of a memory budget are tried, and the message when none fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from math import inf
from pathlib import Path
from typing import Any

import pytest

from edgesparse.backends import BuildResult, backend
from edgesparse.builder.attempts import Attempt, CandidateBuilder
from edgesparse.builder.candidates import CandidatePlan
from edgesparse.builder.child.job import BuildJob, JobResult, Scoring
from edgesparse.builder.child.memory import MB, Budget, Spent
from edgesparse.builder.compare import none_left
from edgesparse.builder.prepare import Build
from edgesparse.config import parse


class Measured:
    """Replaces Workers and OnnxFiles: every build succeeds and uses the next of `peaks`, in megabytes."""

    def __init__(self, peaks: Sequence[int], loaded: int) -> None:
        self.deadline, self.peaks, self.loaded = inf, iter([*peaks, *repeat(peaks[-1], 20)]), loaded
        self.outs: list[str] = []

    def progress(self, step: str, done: int, total: int) -> None: ...

    def onnx(self, plan: CandidatePlan) -> Path:
        return Path("model.onnx")

    def own_layout(self, plan: CandidatePlan) -> None: ...

    def run(self, job: BuildJob) -> JobResult[BuildResult]:
        self.outs.append(job.out.stem)
        spent = Spent(0, next(self.peaks) * MB, self.loaded * MB)
        return JobResult("done", spent, BuildResult(job.out, "fp32", 0.0))


def attempts(measured: Measured, budget: Budget) -> list[Attempt]:
    double: Any = measured
    recipe = parse({"model": "m.onnx"}, "recipe")
    build = Build(recipe, backend("null"), Path(), double, double, budget)
    builder = CandidateBuilder(build, double, 0.0, Scoring())
    return [builder.attempt(plan, None) for plan in (CandidatePlan("fp32"), CandidatePlan("fp16"))]


@pytest.mark.parametrize(
    ("loaded", "peaks", "size", "rungs"),
    [
        (1038, [1047], 1000, ["fp32-0"]),  # neither a rung nor another candidate helps
        (990, [1047], 1000, ["fp32-0", "fp32-1", "fp32-4", "fp16-4"]),  # the second rung saved nothing
        (200, [1400, 1200, 1100, 1050, 1010], 1000, [*(f"fp32-{i}" for i in range(5)), "fp16-4"]),
        (200, [1600, 1300], 1000, ["fp32-0", "fp32-4", "fp16-4"]),  # too much even without the workspace
    ],
)
def test_rungs_that_cannot_help_are_skipped(loaded: int, peaks: list[int], size: int, rungs: list[str]) -> None:
    measured = Measured(peaks, loaded)
    outcomes = attempts(measured, Budget(size * MB, "gpu", True))
    assert measured.outs == rungs
    assert all(attempt.outcome == "failed" and attempt.short for attempt in outcomes)


def test_the_error_names_the_memory_of_the_library_itself() -> None:
    limit = Budget(1000 * MB, "gpu", True)
    first, second = attempts(Measured([1047], 1038), limit)
    assert first.reason == (
        "did not fit into a budget of 1,000 MB (build.memory): took 1,047 MB, CUDA and null take 1,038 MB before "
        "anything is built"
    )
    assert second.reason.startswith("does not fit into a budget of 1,000 MB (build.memory): CUDA and null take 1,038")
    assert str(none_left([first, second], limit)) == (
        "no candidate fits into a budget of 1,000 MB (build.memory): fp32 took 1,047 MB, 1,038 MB of it CUDA and the "
        "library before anything is built: stop other programs on the GPU, or raise build.memory"
    )
