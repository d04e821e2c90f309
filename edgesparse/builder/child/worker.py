"""What is done in a process of its own: `python -m edgesparse.builder.child.worker JOB.json`.

The job is a mapping with `task`. On standard output go JSON lines: `{"progress": [step, done, total]}`, then
`{"peak": bytes}` and `{"result": {...}}` or `{"error": [class, message]}`. What libraries print goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.backends import BuildOptions, BuildResult, backend
from edgesparse.backends.base import EngineLayer, Limits
from edgesparse.errors import EdgeSparseError
from edgesparse.progress import Progress

Job = Mapping[str, Any]
OUT_OF_MEMORY = 3
"""Exit code of a child that was refused memory."""


def build(job: Job, progress: Progress) -> dict[str, Any]:
    """A BuildResult as JSON holds it."""
    engine = backend(job["backend"])
    result = engine.build(Path(job["onnx"]), Path(job["out"]), read_options(job["options"]), progress)
    said: dict[str, Any] = plain(result)
    return said


def trial(job: Job, progress: Progress) -> dict[str, Any]:
    """Load an engine, time it alone, and score it or note what it detects: whatever the job asks for."""
    from edgesparse.builder.child import trials

    return trials.trial(job, progress)


def race(job: Job, progress: Progress) -> dict[str, Any]:
    """Several engines, timed by turns."""
    from edgesparse.builder.child import trials

    return trials.race(job, progress)


def quantise(job: Job, progress: Progress) -> dict[str, Any]:
    """Calibrate, and write what INT8 candidates are built from."""
    from edgesparse.builder import int8

    return int8.quantise(job, progress)


TASKS: dict[str, Callable[[Job, Progress], dict[str, Any]]] = {
    "build": build,
    "trial": trial,
    "race": race,
    "quantise": quantise,
}


def plain(value: Any) -> Any:
    """A dataclass as JSON holds it."""
    return json.loads(json.dumps(asdict(value), default=str))


def read_options(said: Mapping[str, Any]) -> BuildOptions:
    """BuildOptions that went through `plain`."""
    given = {field.name: said[field.name] for field in fields(BuildOptions)}
    for name in ("table", "images", "timing_cache"):
        given[name] = None if given[name] is None else Path(given[name])
    profile = given["profile"]
    return BuildOptions(**{**given, "limits": Limits(**said["limits"]), "profile": tuple(profile) if profile else None})


def read_result(said: Mapping[str, Any]) -> BuildResult:
    """A BuildResult that went through `plain`."""
    layers = tuple(EngineLayer(**{**layer, "onnx": tuple(layer["onnx"])}) for layer in said["layers"])
    names = {name: tuple(said[name]) for name in ("eligible", "picked", "degraded", "warnings")}
    return BuildResult(**{**said, **names, "path": Path(said["path"]), "layers": layers})


def main(tasks: Mapping[str, Callable[[Job, Progress], dict[str, Any]]] = TASKS) -> None:
    """Do what the job in the file argv[1] says, and end the process."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def say(kind: str, value: Any) -> None:
            out.write(json.dumps({kind: value}) + "\n")
            out.flush()

        try:
            job = json.loads(Path(sys.argv[1]).read_text())
            _end_with(job["parent"])
            result = tasks[job["task"]](job, lambda *step: say("progress", step))
            say("peak", device.peak_memory())
            say("result", result)
        except EdgeSparseError as error:
            say("error", [type(error).__name__, str(error)])
        except MemoryError:
            traceback.print_exc()
            _exit(OUT_OF_MEMORY)
        except Exception as error:
            traceback.print_exc()
            say("error", ["BuildError", f"{type(error).__name__}: {error}"])
    # All is said: libraries that crash when they are taken down change nothing any more.
    _exit(0)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with(parent: int) -> None:
    """Be killed when the parent dies, however it does; now, if it has died already."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        _exit(1)


if __name__ == "__main__":
    main()
