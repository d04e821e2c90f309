"""What a child process measures of an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import squares

from edgesparse.backends import backend
from edgesparse.backends.onnxruntime import OnnxRuntimeBackend
from edgesparse.builder.child import trials
from edgesparse.builder.child.job import Scoring, TrialJob
from edgesparse.config import DetectorSpec, InputSpec, Run
from edgesparse.progress import quiet
from edgesparse.runtime.agree import agreement
from edgesparse.runtime.confidence_shift import LOW
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector

SPEC = DetectorSpec(head="yolov8", classes=squares.NAMES, input=InputSpec(size=(squares.SIZE, squares.SIZE)))


def reference(engine: Path, labels: Path, run: Run, name: str) -> Path:
    with Detector(backend("onnxruntime").load(engine), SPEC, run) as detector:
        assert trials.write_reference(detector, sorted(labels.parent.glob("*.png")), labels.parent / name, quiet_count)
    return labels.parent / name


def quiet_count(done: int, total: int) -> None:
    """Progress that nobody watches."""


def test_an_engine_is_loaded_once_for_time_agreement_and_confidences(
    model: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(conf=0.5)
    scoring = Scoring(
        reference=reference(model, labels, run, "boxes.json"),
        run=run,
        confidences=reference(model, labels, LOW, "confidences.json"),
    )
    loads, load = [], OnnxRuntimeBackend.load

    def counting(self: OnnxRuntimeBackend, path: Path, *rest: Any) -> Any:
        loads.append(path)
        return load(self, path, *rest)

    monkeypatch.setattr(OnnxRuntimeBackend, "load", counting)
    result = trials.trial(TrialJob("onnxruntime", "fp32", model, SPEC, 0.01, scoring=scoring), quiet)
    assert loads == [model] and result.outputs[0].name == "output0"
    assert result.agreement is not None and result.agreement.recall == result.agreement.precision == 1
    assert result.shift is not None and result.shift.median == 0


def test_the_reference_keeps_shapes_so_that_right_boxes_do_not_hide_wrong_ones(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    right = Detections(np.array([[0, 0, 8, 8]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    right = replace(right, keypoints=np.array([[[1, 1, 1], [6, 6, 1]]], np.float32))
    wrong = replace(right, keypoints=np.array([[[6, 6, 1], [1, 1, 1]]], np.float32))
    out = tmp_path / "reference.json"
    assert trials.write_reference(cast(Detector, lambda _: right), [image], out, quiet_count) == 1
    for engine, recall in ((right, 1), (wrong, 0)):
        detector = cast(Detector, lambda _, seen=engine: seen)
        assert agreement(trials._pairs(out, detector, quiet_count)).recall == recall
