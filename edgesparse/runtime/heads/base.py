"""The seam for a family of detectors: everything edgesparse needs to know about it, in one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.frames import Decode, Strided
from edgesparse.config import InputSpec, Keypoints
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.letterbox import Letterbox

Task = Literal["detect", "segment", "pose", "obb", "classify"]
"""What a detector reports besides each object's box: nothing, a mask, keypoints or a rotated box; or no boxes, only the
class of the image. The names are those of Ultralytics."""

Complete = Callable[[Detections, NDArray[np.float32], NDArray[Any] | None, Letterbox], Detections]
"""(detections in the frame's pixels, their candidates [n, 4 + k] in the input's, the frame's prototypes, its letterbox)
-> the detections with masks, keypoints or rotated boxes. Without detections, prototypes may be None."""

Sample = Sequence[NDArray[Any]]
"""The raw outputs for one batch of any images, in the model's order."""

CENTERED = InputSpec(size=(1, 1))
"""RGB 0..1, letterboxed in the center on gray 114, as most trainers do. The size is the model's."""
STRETCHED = CENTERED.model_copy(update={"letterbox": "stretch"})
"""RGB 0..1, resized without keeping the aspect ratio."""

IMAGENET = CENTERED.model_copy(update={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
"""RGB with ImageNet's mean and standard deviation."""

POSSIBLE, SHAPES, VALUES = 1, 2, 3
"""Strength of evidence: other families share these shapes; the shapes are distinctive; the values match too."""


@dataclass(frozen=True)
class Layout:
    """The specs of a network's outputs, in the model's order, its input's (height, width), and its keypoints."""

    outputs: tuple[TensorSpec, ...]
    size: tuple[int, int]
    keypoints: Keypoints | None = None

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.outputs))} for an input of {'x'.join(map(str, self.size))}"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [spec.shape for spec in self.outputs]

    @property
    def table(self) -> tuple[int, int] | None:
        """(rows, columns) of the only output if it is [B, rows, columns], otherwise None."""
        shapes = self.shapes
        return (shapes[0][1], shapes[0][2]) if len(shapes) == 1 and len(shapes[0]) == 3 else None

    def index(self, *, name: str = "", ndim: int = 0, last: int = 0) -> int:
        """Index of the first output whose name contains `name`, with `ndim` dimensions and `last` as the last one.

        Zero matches any. Raises LookupError.
        """
        for i, spec in enumerate(self.outputs):
            if name in spec.name and ndim in (0, len(spec.shape)) and last in (0, spec.shape[-1]):
                return i
        raise LookupError(f"no output with name={name!r}, ndim={ndim}, last={last}")

    def boxes(self) -> int:
        """Index of the boxes [B, N, 4]; if scores have four classes too, the name decides. Raises LookupError."""
        fours = [i for i, spec in enumerate(self.outputs) if len(spec.shape) == 3 and spec.shape[-1] == 4]
        named = [i for i in fours if "box" in self.outputs[i].name.lower()]
        return (named or fours)[0]


class Evidence(NamedTuple):
    """Why a network may belong to a family. The strongest evidence decides; a tie is reported as ambiguous."""

    strength: int
    text: str
    """What was seen, in words."""


class Head(ABC):
    """Turns the raw outputs of a family of detectors into boxes. Stateless: one instance serves every network.

    Subclass it in a file of your own and name the class in a recipe, `head: my_head.py:MyHead`, or offer it as an entry
    point of the group `edgesparse.heads`. `fits`, `classes` and `decode` are needed; everything else has a default.
    """

    outputs: ClassVar[str] = "what this head reads"
    """The layout of the outputs in one sentence; error messages quote it."""
    export: ClassVar[str] = ""
    """The command or call that exports such a model."""
    source: ClassVar[str] = ""
    """Where the decoding is published."""
    task: ClassVar[Task] = "detect"
    nms: ClassVar[bool] = True
    """Whether its boxes still overlap, so that NMS is needed."""
    convention: ClassVar[InputSpec] = CENTERED
    """How its trainers prepare images; a recipe's `input:` overrides it."""
    coco_ids: ClassVar[range | None] = None
    """COCO category ids in class order, if networks trained on COCO also have the ids that COCO left out."""

    @property
    def per_class(self) -> bool:
        """Whether the outputs hold every box, with a score per class, in a fixed order.

        Pruning without training compares such outputs place by place.
        """
        return self.nms

    @abstractmethod
    def fits(self, layout: Layout) -> bool:
        """Whether `decode` can read these outputs when the user names this head. May raise LookupError for no."""

    def can_read(self, layout: Layout) -> bool:
        """Whether the head `fits`, where a LookupError means no."""
        try:
            return self.fits(layout)
        except LookupError:
            return False

    def evidence(self, layout: Layout, sample: Sample | None) -> Evidence | None:
        """Why the network may belong to this family; None if it does not, or if only a recipe can choose this head.

        `sample` is None if the network has not been run. Some families share shapes and differ only in values.
        """
        return None

    @abstractmethod
    def classes(self, layout: Layout) -> int | None:
        """The number of classes; None if the outputs do not show it. Called only if the head `fits`."""

    @abstractmethod
    def decode(self, layout: Layout, conf: float, multi_label: bool = False) -> Decode:
        """Return a function (raw outputs, index of the image in the batch) -> Candidates with at least `conf`.

        Candidates are boxes xyxy float32 [n, 4] in the input's pixels, confidence float32 [n], class id int64 [n].
        `multi_label`: a box counts once per class that reaches `conf`, not only for its best class. With `conf` 0
        and `multi_label` a head that is `per_class` returns every box for every class, in the order of the outputs.
        Buffers are allocated here, once, not by the function. Confidences that are not numbers pass `conf`, so that the
        detector can count them.
        """

    def strided(self, layout: Layout) -> Strided | None:
        """Where a GPU kernel finds boxes and scores in the outputs; None if only `decode` can read them."""
        return None

    def prototypes(self, layout: Layout) -> int | None:
        """Index of the output that `complete` needs as a whole; None if there is none."""
        return None

    def complete(self, layout: Layout) -> Complete | None:
        """Return a function that adds masks, keypoints or rotated boxes to final detections; None for plain boxes.

        Buffers are allocated here once, or when the frame size changes, not per frame.
        """
        return None
