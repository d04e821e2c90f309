"""The latency of engines and what they detect, measured in the child process that loads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from edgesparse import device
from edgesparse.backends import backend
from edgesparse.backends.base import Runner
from edgesparse.builder.child.job import RaceJob, RaceResult, Scoring, TrialJob, TrialResult
from edgesparse.builder.child.timing import interleaved
from edgesparse.confidences import ConfidenceShift
from edgesparse.config import DetectorSpec, Run
from edgesparse.errors import BuildError
from edgesparse.package.manifest import AgreementRecord, Score
from edgesparse.progress import Progress
from edgesparse.runtime.agree import Pair, agreement
from edgesparse.runtime.confidence_shift import LOW, confidence_shift
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, evaluate
from edgesparse.runtime.images import read_image
from edgesparse.runtime.labels.read import Labels
from edgesparse.runtime.stored_shapes import stored_shapes, with_shapes


def trial(job: TrialJob, progress: Progress) -> TrialResult:
    """Time an engine alone, and score it on labels or compare it with the reference if the job requests that."""
    with backend(job.backend).load(job.engine, job.threads, job.dla) as runner:
        with _detector(runner, job.spec, job.scoring.run or SCORING) as detector:
            progress(f"timing {job.name}", 0, 0)
            timing = interleaved({job.name: runner}, job.seconds)[job.name]
            score = _score(detector, job.scoring, partial(progress, f"scoring {job.name}"))
            agreed = _agreement(detector, job.scoring, partial(progress, f"comparing {job.name}"))
            require_boxes(detector)
        shift = _shift(job, runner, partial(progress, f"comparing confidences of {job.name}"))
        return TrialResult(runner.inputs, runner.outputs, timing, score, agreed, shift)


@contextmanager
def _detector(runner: Runner, spec: DetectorSpec, run: Run) -> Iterator[Detector]:
    """A detector on a runner that is used again after it."""
    detector = Detector(runner, spec, run)
    try:
        yield detector
    finally:
        detector.release()


def require_boxes(detector: Detector) -> None:
    """Raise BuildError if any candidate so far was not a valid box: the engine's results cannot be trusted."""
    if detector.faults:
        counts = ", ".join(
            f"{count} {'have' if count > 1 else 'has'} {text}" for text, count in detector.faults.items()
        )
        raise BuildError(
            f"{detector.dropped} of its candidates on the test images are not valid boxes: {counts}; check the "
            "weights, the 'head:' and the class names"
        )


def race(job: RaceJob, progress: Progress) -> RaceResult:
    """Time engines interleaved."""
    target = backend(job.backend)
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(target.load(path, job.threads, job.dla)) for name, path in job.engines.items()
        }
        progress("timing interleaved", 0, 0)
        timings = interleaved(runners, job.seconds, lambda *_: progress("timing interleaved", 0, 0))
        return RaceResult(timings, str(device.clocks()))


def write_reference(detector: Detector, files: Sequence[Path], out: Path, progress: Callable[[int, int], None]) -> int:
    """Write a detector's detections on image files, to compare engines with. Returns their number."""
    rows = []
    for done, path in enumerate(files, 1):
        detections = detector(read_image(path))
        boxes = (detections.xyxy.tolist(), detections.confidence.tolist(), detections.class_id.tolist())
        rows.append([str(path.absolute()), *boxes, stored_shapes(detections)])
        progress(done, len(files))
    out.write_text(json.dumps(rows))
    return sum(len(confidence) for _, _, confidence, *_ in rows)


def _score(detector: Detector, scoring: Scoring, progress: Callable[[int, int], None]) -> Score | None:
    if scoring.annotations is None:
        return None
    evaluation = evaluate(detector, Labels(scoring.annotations, scoring.images), progress)
    return Score(map=round(evaluation.map, 2), map50=round(evaluation.map50, 2), metric=evaluation.metric)


def _agreement(detector: Detector, scoring: Scoring, progress: Callable[[int, int], None]) -> AgreementRecord | None:
    if scoring.reference is None:
        return None
    agreed = agreement(_pairs(scoring.reference, detector, progress))
    names = ("recall", "precision", "iou", "score_mean", "boxes", "images")
    return AgreementRecord(**{name: round(getattr(agreed, name), 4) for name in names})


def _shift(job: TrialJob, runner: Runner, progress: Callable[[int, int], None]) -> ConfidenceShift | None:
    """Compare the engine's confidences with the reference's, under their own settings, if the job requests that."""
    if job.scoring.confidences is None:
        return None
    with _detector(runner, job.spec, LOW) as detector:
        return confidence_shift(_pairs(job.scoring.confidences, detector, progress), job.spec.classes)


def _pairs(reference: Path, detector: Detector, progress: Callable[[int, int], None]) -> Iterator[Pair]:
    """Yield the detections in a file of `write_reference`, and the detector's on the same image."""
    rows = json.loads(reference.read_text())
    for done, (path, xyxy, confidence, class_id, shapes) in enumerate(rows, 1):
        boxes = np.array(xyxy, np.float32).reshape(-1, 4)
        expected = Detections(boxes, np.array(confidence, np.float32), np.array(class_id, np.int64))
        yield with_shapes(expected, shapes), detector(read_image(Path(path)))
        progress(done, len(rows))
