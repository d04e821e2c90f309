"""Which rungs of a memory budget are tried, and what is said when none fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from math import inf
from pathlib import Path
from typing import Any

import pytest

from edgesparse.backends import backend
from edgesparse.builder.attempts import Attempts, Tried
from edgesparse.builder.candidates import Plan
from edgesparse.builder.child.memory import MB, Budget, Spent
from edgesparse.builder.child.process import Ended
from edgesparse.builder.contest import _none_left
from edgesparse.config import parse


class Measured:
    """Stands for Workers and Sources: every build succeeds and takes the next of `peaks`, in megabytes."""

    def __init__(self, peaks: Sequence[int], loaded: int) -> None:
        self.deadline, self.peaks, self.loaded = inf, iter([*peaks, *repeat(peaks[-1], 20)]), loaded
        self.outs: list[str] = []

    def progress(self, step: str, done: int, total: int) -> None: ...

    def onnx(self, plan: Plan) -> Path:
        return Path("model.onnx")

    def run(self, task: str, out: str, **job: Any) -> Ended:
        self.outs.append(Path(out).stem)
        return Ended("done", Spent(0, next(self.peaks) * MB, self.loaded * MB), {"not": "read"})


def tried(measured: Measured, budget: Budget) -> list[Tried]:
    double: Any = measured
    attempts = Attempts(parse({"model": "m.onnx"}, "recipe"), backend("null"), double, double, double, budget)
    return [attempts.attempt(plan, None, {}) for plan in (Plan("fp32"), Plan("fp16"))]


@pytest.mark.parametrize(
    ("loaded", "peaks", "size", "rungs"),
    [
        (1038, [1047], 1000, ["fp32-0"]),  # no rung helps, nor any candidate
        (990, [1047], 1000, ["fp32-0", "fp32-1", "fp32-4", "fp16-4"]),  # the second rung saved nothing
        (200, [1400, 1200, 1100, 1050, 1010], 1000, [*(f"fp32-{i}" for i in range(5)), "fp16-4"]),
        (200, [1600, 1300], 1000, ["fp32-0", "fp32-4", "fp16-4"]),  # too much even without its workspace
    ],
)
def test_rungs_that_cannot_help_are_left_out(loaded: int, peaks: list[int], size: int, rungs: list[str]) -> None:
    measured = Measured(peaks, loaded)
    found = tried(measured, Budget(size * MB, "gpu", True))
    assert measured.outs == rungs
    assert all(one.outcome == "failed" and one.short for one in found)


def test_the_error_says_what_the_library_takes_by_itself() -> None:
    limit = Budget(1000 * MB, "gpu", True)
    found = tried(Measured([1047], 1038), limit)
    assert found[0].reason == (
        "did not fit into a budget of 1,000 MB (build.memory): took 1,047 MB, CUDA and null take 1,038 MB before "
        "anything is built"
    )
    assert found[1].reason.startswith("does not fit into a budget of 1,000 MB (build.memory): CUDA and null take 1,038")
    assert str(_none_left(found, limit)) == (
        "no candidate fits into a budget of 1,000 MB (build.memory): fp32 took 1,047 MB, 1,038 MB of it CUDA and the "
        "library before anything is built: end other programs on the GPU, or raise build.memory"
    )
