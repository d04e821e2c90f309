"""The child process of a build: `python -m edgesparse.builder.child.worker JOB.json`.

Standard output carries JSON lines: `{"progress": [step, done, total]}`, then `{"peak": bytes}` and `{"result": {...}}`
or `{"error": [class, message]}`. Output of libraries goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.backends import BuildResult, backend
from edgesparse.builder.child.job import (
    BuildJob,
    Int8Files,
    Job,
    QuantizeJob,
    RaceJob,
    RaceResult,
    TrialJob,
    TrialResult,
    read_job,
    to_json,
)
from edgesparse.errors import EdgeSparseError
from edgesparse.progress import Progress

OUT_OF_MEMORY = 3
"""Exit code of a child that was refused memory."""

Task = Callable[[Any, Progress], Any]


def build(job: BuildJob, progress: Progress) -> BuildResult:
    """Build one engine."""
    return backend(job.backend).build(job.onnx, job.out, job.options, progress)


# These import what they need when they run, so that a building child loads nothing else that counts against its budget.


def trial(job: TrialJob, progress: Progress) -> TrialResult:
    """Time one engine and check what it detects."""
    from edgesparse.builder.child import trials

    return trials.trial(job, progress)


def race(job: RaceJob, progress: Progress) -> RaceResult:
    """Time several engines interleaved."""
    from edgesparse.builder.child import trials

    return trials.race(job, progress)


def quantize(job: QuantizeJob, progress: Progress) -> Int8Files:
    """Calibrate, and write the files that INT8 candidates are built from."""
    from edgesparse.builder import int8

    return int8.write_int8(job, progress)


TASKS: dict[type[Job[Any]], Task] = {BuildJob: build, TrialJob: trial, RaceJob: race, QuantizeJob: quantize}


def main(tasks: Mapping[type[Job[Any]], Task] = TASKS) -> None:
    """Run the job in the file argv[1] and exit."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def send(kind: str, value: Any) -> None:
            out.write(json.dumps({kind: value}) + "\n")
            out.flush()

        try:
            job, parent = read_job(Path(sys.argv[1]), tasks)
            _end_with(parent)
            _end_first()
            result = tasks[type(job)](job, lambda *step: send("progress", step))
            send("peak", device.peak_memory())
            send("result", to_json(result))
        except EdgeSparseError as error:
            send("error", [type(error).__name__, str(error)])
        except MemoryError:
            traceback.print_exc()
            _exit(OUT_OF_MEMORY)
        except Exception as error:
            traceback.print_exc()
            send("error", ["BuildError", f"{type(error).__name__}: {error}"])
    # The result has been sent: a library that crashes while it is unloaded can no longer spoil it.
    _exit(0)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when the parent dies; exit now if it is already dead."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        _exit(1)


def _end_first() -> None:
    """Have the kernel end this process when memory runs out, and not the service, whose unit sets 200. Raising the
    score needs no privilege.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
