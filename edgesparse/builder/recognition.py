"""What each head that may fit a network detects in an image, to show it and to settle which head is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends import Runner
from edgesparse.builder.prepare import layout_of, open_static, sample_of, specify
from edgesparse.classes import coco_names
from edgesparse.config import Recipe, Run, parse
from edgesparse.errors import ConfigError, ModelError
from edgesparse.model import load as models
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.runtime.heads.base import Layout
from edgesparse.runtime.heads.recognize import check, evidence, names_in, of_task
from edgesparse.runtime.heads.registry import head as head_of
from edgesparse.runtime.heads.registry import heads
from edgesparse.runtime.images import read_image

SHOWN = 5


@dataclass(frozen=True)
class HeadSeen:
    """A head that may fit. `why`: its evidence; `strength`: that of the evidence, 0 if it can only read the outputs.

    `detections`: in the image's pixels; `faults`: candidates that are not valid boxes; `error`: why it cannot run.
    """

    name: str
    why: str
    strength: int
    detections: Detections
    faults: int = 0
    error: str = ""

    @property
    def plausible(self) -> bool:
        """Whether it sees more boxes than faults."""
        return len(self.detections) > self.faults

    @property
    def sees(self) -> str:
        """Describe the most confident boxes, and how many candidates are not valid boxes."""
        if self.error:
            return self.error
        boxes = [_box(detection.name, detection.confidence, detection.xyxy) for detection in self.detections[:SHOWN]]
        more = [f"and {len(self.detections) - SHOWN} more"] if len(self.detections) > SHOWN else []
        faults = [f"{self.faults} that are no boxes"] if self.faults else []
        return "; ".join((*boxes, *more, *faults)) or "nothing"


def _box(name: str, confidence: float, xyxy: Sequence[float]) -> str:
    return f"{name} {confidence:.2f} at {', '.join(f'{value:.0f}' for value in xyxy)}"


def heads_that_fit(path: Path, size: tuple[int, int] | None, image: Path) -> list[HeadSeen]:
    """Each head that has evidence, strongest first; if none has, each head that can read the outputs.

    Raises ModelError for a file that cannot be used, ImageError for an image that cannot be read.
    """
    frame = read_image(image)
    recipe = parse({"model": str(path), "input": {"size": size} if size else {}}, str(path))
    model = models.load(path)
    info = models.info(model)
    with open_static(model, recipe) as runner:
        layout = layout_of(runner, recipe, info)
        seen_by = of_task(evidence(layout, sample_of(runner)), info.metadata)
        fitting = {name: (seen.text, seen.strength) for name, seen in seen_by.items()}
        if not fitting:
            fitting = {name: ("can read the outputs", 0) for name in heads() if _reads(name, layout)}
        order = sorted(fitting, key=lambda name: -fitting[name][1])
        return [
            _seen(HeadSeen(name, *fitting[name], Detections.none()), frame, (recipe, info, runner)) for name in order
        ]


def settled(seen: Sequence[HeadSeen]) -> HeadSeen | None:
    """The head with the strongest evidence; if several tie, the only one that sees more boxes than faults."""
    strongest = [each for each in seen if each.strength and each.strength == seen[0].strength]
    if len(strongest) == 1:
        return strongest[0]
    plausible = [each for each in strongest if each.plausible]
    return plausible[0] if len(plausible) == 1 else None


def _reads(name: str, layout: Layout) -> bool:
    try:
        check(name, layout)
    except ModelError:
        return False
    return True


def _seen(seen: HeadSeen, frame: NDArray[np.uint8], network: tuple[Recipe, models.ModelInfo, Runner]) -> HeadSeen:
    """Return `seen` with what the head sees in the frame, or why it cannot run."""
    recipe, info, runner = network
    layout = layout_of(runner, recipe, info)
    family = head_of(seen.name)
    if names_in(info.metadata) is None and family.classes(layout) in (None, len(coco_names(family.coco_ids))):
        recipe = recipe.model_copy(update={"classes": "coco"})
    try:
        detector = Detector(runner, specify(recipe, info, seen.name, layout), Run())  # closed with the runner
        return replace(seen, detections=detector(frame), faults=detector.dropped)
    except (ConfigError, ModelError) as error:
        return replace(seen, error=str(error))
