"""The self-test: what the reference finds on a few images travels in the bundle; the engine is held against it."""

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

FILE = "expected.json"
TIMED = 20
"""Least number of frames that the latency is the median of."""


@dataclass(frozen=True)
class SelfTest:
    """What an engine came to: shares 0..1 as Agreement has them, median milliseconds from frame to detections."""

    images: int
    boxes: int
    recall: float
    precision: float
    latency_ms: float

    def why_not(self, limits: Deploy) -> str | None:
        """Why it fails, as 'found, needed'; None when it passes."""
        if min(self.recall, self.precision) < limits.min_agreement:
            return (
                f"the self-test found {100 * self.recall:.0f} % of {self.boxes} expected boxes, and "
                f"{100 * self.precision:.0f} % of what it found was expected, needed deploy.min_agreement "
                f"{100 * limits.min_agreement:.0f} % of each"
            )
        if limits.max_latency_ms is not None and self.latency_ms > limits.max_latency_ms:
            found = f"the self-test took {self.latency_ms:.1f} ms a frame"
            return f"{found}, needed deploy.max_latency_ms {limits.max_latency_ms:g}"
        return None

    def as_dict(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def write(path: Path, detector: Detector, images: Sequence[Path], names: Sequence[str]) -> int:
    """Write what `detector` finds on `images`, which travel as `names`; returns how many boxes that is.

    Raises ConfigError when it finds nothing: a self-test on that could not fail.
    """
    found = {name: detector(read_image(image)) for name, image in zip(names, images, strict=True)}
    boxes = sum(map(len, found.values()))
    if not boxes:
        raise ConfigError(
            f"the model finds nothing on the {len(found)} images of the self-test: set deploy.images to a folder "
            "with objects in them"
        )
    path.write_text(json.dumps({name: _rows(one) for name, one in found.items()}, indent=1))
    return boxes


def run(folder: Path, package: Package, recipe: Recipe) -> SelfTest:
    """Run a verified package on the images beside `folder`/expected.json. Raises BuildError when it cannot run,
    DeployError when it runs only as its fallback."""
    expected = json.loads((folder / FILE).read_text())
    images = {name: read_image(folder / name) for name in expected}
    with open_detector(package, recipe.run) as detector:
        if detector.notice:
            raise DeployError(f"the engine cannot be loaded: {detector.notice}")
        found = [(_detections(rows), detector(images[name])) for name, rows in expected.items()]
        times = []
        for i in range(max(TIMED, len(images))):
            begun = time.perf_counter()
            detector(images[list(images)[i % len(images)]])
            times.append(1e3 * (time.perf_counter() - begun))
    agreed = agreement(found)
    return SelfTest(agreed.images, agreed.boxes, agreed.recall, agreed.precision, float(np.median(times)))


def _rows(found: Detections) -> list[list[float]]:
    """Rounded to what matters, so that two machines write the same."""
    return [
        [*(round(float(v), 1) for v in box), round(float(score), 2), int(label)]
        for box, score, label in zip(found.xyxy, found.confidence, found.class_id, strict=True)
    ]


def _detections(rows: list[list[float]]) -> Detections:
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))
