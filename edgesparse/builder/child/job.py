"""Jobs for child processes and their results: frozen dataclasses, exchanged as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import TypeAdapter

from edgesparse.backends import BuildOptions, BuildResult, TensorSpec
from edgesparse.builder.child.memory import Spent
from edgesparse.builder.child.timing import Timing
from edgesparse.confidences import ConfidenceShift
from edgesparse.config import DetectorSpec, Run
from edgesparse.errors import EdgeSparseError
from edgesparse.package.manifest import AgreementRecord, Score

R = TypeVar("R")

How = Literal["done", "error", "memory", "crash", "time", "hang"]
"""`memory`: killed for using too much memory, or refused it. `time`: the time limit was reached. `hang`: it made no
progress.
"""


class Job(Generic[R]):
    """Work for a child process: a frozen dataclass whose task returns an R, the type in `returns`."""

    returns: ClassVar[Any]


@dataclass(frozen=True)
class JobResult(Generic[R]):
    """How a job ended, its peak memory, and its value or error."""

    how: How
    spent: Spent
    value: R | None = None
    error: EdgeSparseError | None = None


@dataclass(frozen=True)
class BuildJob(Job[BuildResult]):
    """Build the engine `out` from the file `onnx`."""

    returns = BuildResult
    backend: str
    onnx: Path
    out: Path
    options: BuildOptions


@dataclass(frozen=True)
class Scoring:
    """What an engine's detections are compared with: labels, or the reference's detections, or nothing.

    `annotations` with the folder `images` are scored as COCO does. `reference` is a file of `trials.write_reference`,
    compared under the settings `run`. `confidences` is such a file too, under the settings `confidence_shift.LOW`: its
    confidences are compared.
    """

    annotations: Path | None = None
    images: Path | None = None
    reference: Path | None = None
    run: Run | None = None
    confidences: Path | None = None


@dataclass(frozen=True)
class TrialResult:
    """The engine's tensors, its latency, and its score or agreement if requested."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    timing: Timing
    score: Score | None = None
    agreement: AgreementRecord | None = None
    shift: ConfidenceShift | None = None


@dataclass(frozen=True)
class TrialJob(Job[TrialResult]):
    """Load the engine of the candidate `name`, time it for about `seconds`, and check what it detects."""

    returns = TrialResult
    backend: str
    name: str
    engine: Path
    spec: DetectorSpec
    seconds: float
    threads: int = 0
    dla: int | None = None
    scoring: Scoring = Scoring()


@dataclass(frozen=True)
class RaceResult:
    """Timings by candidate, and a description of the clocks, read when the last run ended."""

    timings: dict[str, Timing]
    clocks: str


@dataclass(frozen=True)
class RaceJob(Job[RaceResult]):
    """Time several engines interleaved, each for about `seconds`."""

    returns = RaceResult
    backend: str
    engines: dict[str, Path]
    seconds: float
    threads: int = 0
    dla: int | None = None


@dataclass(frozen=True)
class ScoreTarget:
    """The mAP, 0..100, that INT8 must reach on labeled images."""

    annotations: Path
    images: Path | None
    minimum: float


@dataclass(frozen=True)
class Int8Files:
    """The files that INT8 candidates are built from, and notes for the report. `fuse` and `sparse` contain Q/DQ in
    either placement; `table` is TensorRT's calibration table of the float model `even`.
    """

    fuse: Path
    sparse: Path
    even: Path
    table: Path
    notes: tuple[str, ...]


@dataclass(frozen=True)
class QuantizeJob(Job[Int8Files]):
    """Calibrate `onnx` on at most `count` images of a folder and write every INT8 form to `folder`.

    With a `target`, layers are kept in float until it is reached; without one, every layer that can be INT8 is.
    """

    returns = Int8Files
    onnx: Path
    folder: Path
    spec: DetectorSpec
    images: Path
    count: int
    batch: int = 1
    target: ScoreTarget | None = None


def write_job(job: Job[Any], path: Path) -> None:
    """Write a job of this process to a file that only its owner can read."""
    text = json.dumps({"job": type(job).__name__, "parent": os.getpid(), "fields": to_json(job)})
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def read_job(path: Path, kinds: Iterable[type[Job[Any]]]) -> tuple[Job[Any], int]:
    """Return the job in a file, one of `kinds`, and the id of the process that wrote it."""
    content: dict[str, Any] = json.loads(path.read_text())
    kind = next(kind for kind in kinds if kind.__name__ == content["job"])
    job: Job[Any] = from_json(kind, content["fields"])
    return job, int(content["parent"])


def to_json(value: Any) -> Any:
    """Return a dataclass as JSON-compatible values."""
    kind: Any = type(value)
    return _adapter(kind).dump_python(value, mode="json")


def from_json(kind: Any, fields: Mapping[str, Any]) -> Any:
    """Return an object of the dataclass `kind` from the output of `to_json`."""
    return _adapter(kind).validate_json(json.dumps(fields))


@cache  # it takes milliseconds to make one
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
