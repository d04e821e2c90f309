"""The self-test: the engine is compared with the reference's detections on a few images, stored in the bundle."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesparse.builder.targets import open_detector
from edgesparse.config import Deploy, Recipe
from edgesparse.errors import ConfigError, DeployError
from edgesparse.package.store import Package
from edgesparse.runtime.agree import agreement
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.images import read_image
from edgesparse.runtime.stored_shapes import stored_shapes, with_shapes

FILE = "expected.json"
TIMED_FRAMES = 20
"""Least number of frames for the median latency."""


@dataclass(frozen=True)
class SelfTest:
    """An engine's result. `recall` and `precision`: 0..1, as in Agreement; `latency_ms`: median from frame to
    detections."""

    images: int
    boxes: int
    recall: float
    precision: float
    latency_ms: float

    def why_not(self, limits: Deploy) -> str | None:
        """Return why it fails, as 'found, needed', or None if it passes."""
        if min(self.recall, self.precision) < limits.min_agreement:
            return (
                f"the self-test found {100 * self.recall:.0f} % of {self.boxes} expected boxes, and "
                f"{100 * self.precision:.0f} % of what it found was expected, needed deploy.min_agreement "
                f"{100 * limits.min_agreement:.0f} % of each"
            )
        if limits.max_latency_ms is not None and self.latency_ms > limits.max_latency_ms:
            took = f"the self-test took {self.latency_ms:.1f} ms per frame"
            return f"{took}, needed deploy.max_latency_ms {limits.max_latency_ms:g}"
        return None

    def as_dict(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def write(path: Path, detector: Detector, images: Sequence[Path], names: Sequence[str]) -> int:
    """Write the detections of `detector` on `images`, which the bundle calls `names`. Returns the number of boxes.
    Raises ConfigError if there are none: such a self-test could not fail.
    """
    results = {name: detector(read_image(image)) for name, image in zip(names, images, strict=True)}
    boxes = sum(map(len, results.values()))
    if not boxes:
        raise ConfigError(
            f"the model detects nothing on the {len(results)} images of the self-test: set deploy.images to a folder "
            "with objects in them"
        )
    path.write_text(json.dumps({name: _values(detections) for name, detections in results.items()}, indent=1))
    return boxes


def run(folder: Path, package: Package, recipe: Recipe) -> SelfTest:
    """Run a verified package on the images next to `folder`/expected.json. Raises BuildError if it cannot run,
    DeployError if only its fallback can.
    """
    expected = json.loads((folder / FILE).read_text())
    images = {name: read_image(folder / name) for name in expected}
    with open_detector(package, recipe.run) as detector:
        if detector.notice:
            raise DeployError(f"the engine cannot be loaded: {detector.notice}")
        pairs = [(_detections(values), detector(images[name])) for name, values in expected.items()]
        latency = _median_ms(detector, list(images.values()))
    result = agreement(pairs)
    return SelfTest(result.images, result.boxes, result.recall, result.precision, latency)


def _median_ms(detector: Detector, images: Sequence[Any]) -> float:
    times = []
    for i in range(max(TIMED_FRAMES, len(images))):
        begin = time.perf_counter()
        detector(images[i % len(images)])
        times.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(times))


def _values(detections: Detections) -> list[list[float]] | dict[str, Any]:
    """Return boxes, scores and classes, and masks, keypoints or rotated boxes if there are any, rounded so that all
    machines write the same.
    """
    rows = [
        [*(round(float(v), 1) for v in box), round(float(score), 2), int(label)]
        for box, score, label in zip(detections.xyxy, detections.confidence, detections.class_id, strict=True)
    ]
    shapes = stored_shapes(detections, digits=2)
    return {"rows": rows, **shapes} if shapes else rows


def _detections(values: list[list[float]] | dict[str, Any]) -> Detections:
    rows, shapes = (values["rows"], values) if isinstance(values, dict) else (values, {})
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    boxes = Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))
    return with_shapes(boxes, shapes)
