"""What an engine is worth: its latency, and what it detects. Done in the worker, where the engine may run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgesparse import device
from edgesparse.backends import Runner, TensorSpec, backend
from edgesparse.builder.child.timing import interleaved
from edgesparse.builder.child.worker import Job
from edgesparse.config import DetectorSpec, Run
from edgesparse.progress import Progress
from edgesparse.runtime.agree import agreement
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Labels, evaluate
from edgesparse.runtime.images import image_files, read_image


def trial(job: Job, progress: Progress) -> dict[str, Any]:
    """Time the engine `path` of `backend` alone for `seconds`; score it on `labels`, or compare it on `images`.

    `images` is what `reference` wrote. Returns `inputs`, `outputs`, `timing`, and `score` or `agreement` where asked.
    """
    name = job["name"]
    spec = DetectorSpec.model_validate_json(job["spec"])
    run = Run.model_validate_json(job["run"]) if "run" in job else SCORING
    with Detector(backend(job["backend"]).load(Path(job["path"]), job["threads"], job["dla"]), spec, run) as detector:
        runner = detector.runner
        said: dict[str, Any] = {"inputs": _tensors(runner.inputs), "outputs": _tensors(runner.outputs)}
        progress(f"timing {name}", 0, 0)
        said["timing"] = asdict(interleaved({name: runner}, job["seconds"])[name])
        if job.get("labels"):
            labels = Labels(*(path and Path(path) for path in job["labels"]))
            found = evaluate(detector, labels, lambda done, total: progress(f"scoring {name}", done, total))
            said["score"] = {"map": round(found.map, 2), "map50": round(found.map50, 2)}
        if job.get("images"):
            said["agreement"] = _agreement(detector, Path(job["images"]), partial(progress, f"comparing {name}"))
    return said


def reference(detector: Detector, folder: Path, out: Path, progress: Callable[[int, int], None]) -> None:
    """Write what a detector finds on the images of a folder, for others to be compared with."""
    files = image_files(folder)
    rows = []
    for done, path in enumerate(files, 1):
        found = detector(read_image(path))
        boxes = (found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist())
        rows.append([str(path.absolute()), *boxes])
        progress(done, len(files))
    out.write_text(json.dumps(rows))


def _agreement(detector: Detector, said: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
    rows = json.loads(said.read_text())

    def pairs() -> Iterator[tuple[Detections, Detections]]:
        for done, (path, xyxy, confidence, class_id) in enumerate(rows, 1):
            boxes = np.array(xyxy, np.float32).reshape(-1, 4)
            known = Detections(boxes, np.array(confidence, np.float32), np.array(class_id, np.int64))
            yield known, detector(read_image(Path(path)))
            progress(done, len(rows))

    found = agreement(pairs())
    names = ("recall", "precision", "iou", "score_mean", "boxes", "images")
    return {name: round(getattr(found, name), 4) for name in names}


def race(job: Job, progress: Progress) -> dict[str, Any]:
    """Time the engines `paths` (name -> file) by turns; returns `timings` and `clocks`, read as the last one ended."""
    engine = backend(job["backend"])
    with ExitStack() as stack:
        runners: dict[str, Runner] = {
            name: stack.enter_context(engine.load(Path(path), job["threads"], job["dla"]))
            for name, path in job["paths"].items()
        }
        progress("timing by turns", 0, 0)
        timings = interleaved(runners, job["seconds"], lambda *_: progress("timing by turns", 0, 0))
        clocks = device.clocks()
    return {"timings": {name: asdict(timing) for name, timing in timings.items()}, "clocks": str(clocks)}


def _tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [asdict(spec) for spec in specs]
