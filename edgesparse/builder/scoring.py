"""What a model that is still in memory scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from edgesparse.backends import backend
from edgesparse.config import DetectorSpec
from edgesparse.model.load import Model, save
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.evaluate import SCORING, Labels, evaluate


def points(model: Model, spec: DetectorSpec, labels: Labels, progress: Callable[[int, int], None]) -> float:
    """COCO mAP, 0..100, of a float or Q/DQ model, run by ONNX Runtime. Raises as `Detector` and `evaluate`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        save(model, path)
        with Detector(backend("onnxruntime").load(path), spec, SCORING) as detector:
            return evaluate(detector, labels, progress).map
