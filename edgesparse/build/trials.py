"""What an engine is worth: its latency, and what it detects. Done in the worker, where the engine may run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgesparse import device
from edgesparse.backends import Runner, TensorSpec, backend
from edgesparse.build.timing import interleaved
from edgesparse.build.worker import Job, Progress
from edgesparse.config import DetectorSpec
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Labels, evaluate


def trial(job: Job, progress: Progress) -> dict[str, Any]:
    """Time the engine `path` of `backend` alone for `seconds` (unless 0 or nothing is said), score it on `labels`.

    Returns `inputs`, `outputs`, and, as far as it was asked for, `timing` and `score`.
    """
    name = job["name"]
    spec = DetectorSpec.model_validate_json(job["spec"])
    with Detector(backend(job["backend"]).load(Path(job["path"]), job["threads"]), spec, SCORING) as detector:
        runner = detector.runner
        said: dict[str, Any] = {"inputs": _tensors(runner.inputs), "outputs": _tensors(runner.outputs)}
        if "seconds" in job:
            progress(f"timing {name}", 0, 0)
            said["timing"] = asdict(interleaved({name: runner}, job["seconds"])[name])
        if job.get("labels"):
            labels = Labels(*(path and Path(path) for path in job["labels"]))
            found = evaluate(detector, labels, lambda done, total: progress(f"scoring {name}", done, total))
            said["score"] = {"map": round(found.map, 2), "map50": round(found.map50, 2)}
    return said


def race(job: Job, progress: Progress) -> dict[str, Any]:
    """Time the engines `paths` (name -> file) by turns; returns `timings` and `clocks`, read as the last one ended."""
    engine = backend(job["backend"])
    with ExitStack() as stack:
        runners: dict[str, Runner] = {
            name: stack.enter_context(engine.load(Path(path), job["threads"])) for name, path in job["paths"].items()
        }
        progress("timing by turns", 0, 0)
        timings = interleaved(runners, job["seconds"], lambda *_: progress("timing by turns", 0, 0))
        clocks = device.clocks()
    return {"timings": {name: asdict(timing) for name, timing in timings.items()}, "clocks": str(clocks)}


def _tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [asdict(spec) for spec in specs]
