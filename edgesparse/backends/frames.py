"""The frame path: frames go in, candidates come out, and several batches are in flight.

A Slot holds everything that one batch needs; a Ring uses slots in turn and collects results in order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.config import InputSpec
from edgesparse.errors import EdgeSparseError, SourceError
from edgesparse.tiles import Part

Pixels = Literal["bgr", "rgb", "nv12", "yuyv"]
PIXELS: tuple[Pixels, ...] = ("bgr", "rgb", "nv12", "yuyv")
"""Pixel formats, in the order of their numbers in the kernels."""

Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""xyxy [n, 4] in the input's pixels, confidence [n], class_id [n].

Heads of other tasks than detection return xyxy [n, 4 + k]: k more values per box, such as an angle, travel with it.
"""


class FrameBoxes(NamedTuple):
    """Candidates of one frame.

    `final`: they are valid boxes (boxes.py), reach their class's threshold, and have passed NMS; most confident first.
    `dropped`: candidates that reached the threshold but are not valid boxes, if `final`. `prototypes`: the frame's part
    of the output that masks are made of, valid until the slot starts again. `in_frame`: boxes are in the pixels of what
    the model sees of the frame and clipped to it, and none is empty; otherwise they are in the input's pixels.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    final: bool = False
    dropped: int = 0
    prototypes: NDArray[Any] | None = None
    in_frame: bool = False


NO_BOXES = FrameBoxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), True)


Decode = Callable[[Sequence[NDArray[Any]], int], Candidates]
"""(raw outputs in the model's order, index of the image in the batch) -> Candidates that reach the threshold."""


@dataclass(frozen=True)
class Place:
    """The pixel format and size of a frame, and the rectangle of the model's input that it fills. Sizes in pixels.

    `part`: what the model sees of the frame; None: all of it. `pitch`: bytes from one row to the next; 0: rows have no
    gaps. `chroma`: bytes from the first row to NV12's colors; 0: they follow the rows.
    """

    pixels: Pixels
    frame_height: int
    frame_width: int
    top: int
    left: int
    height: int
    width: int
    part: Part | None = None
    pitch: int = 0
    chroma: int = 0

    @property
    def seen(self) -> Part:
        """What the model sees of the frame."""
        return self.part or Part(0, 0, self.frame_height, self.frame_width)


Frame = tuple[NDArray[np.uint8] | DeviceFrame, Place]
"""uint8: [H, W, 3] as bgr and rgb, [H * 3 / 2, W] as nv12, [H, W, 2] as yuyv. In GPU memory only for slots that
described it (`Slot.on_device`)."""


MOST_IMAGES = 64
"""The most images in a batch that the kernels prepare."""
LEVELS = 9
"""The most `planes` of a Strided, as in compact.cuh: three anchors at three strides."""

BoxKind = Literal["center-size", "corners", "exp", "sigmoid-exp", "sigmoid-square", "tanh-sigmoid", "distances", "bins"]
"""What the values of a box are, in the order of their numbers in the kernel.

In pixels: center and size, or corners. Relative to the candidate's prior: a center, before the function that is named
first, as an offset in steps, and a size, before the function that is named last, as a factor: "exp" x + a * step,
size * exp(c); "sigmoid-exp"; "sigmoid-square", where a size is multiplied by (2 * sigmoid) ** 2; "tanh-sigmoid". Or the
distances of the sides from the prior's center in steps, as they are or each as the mean of `bins` logits.
"""
ScoreKind = Literal["confidences", "logits", "softmax"]
"""Whether objectness and classes are confidences, logits, or, of the classes, logits of a softmax."""


class Plane(NamedTuple):
    """Where values are: value k of candidate r is at `first` + r * `row` + k * `step` of an output, per image."""

    output: int
    row: int
    step: int
    first: int = 0


@dataclass(frozen=True)
class Planes:
    """Where the values of some candidates are: of all, or of those of one stride or anchor."""

    candidates: int
    boxes: Plane
    scores: Plane
    objectness: Plane | None = None
    details: Plane | None = None


@dataclass(frozen=True)
class Strided:
    """Where a kernel finds boxes and scores in the outputs, and how it decodes them. One to LEVELS `planes`.

    `priors` [candidates, 6]: center x, y, step x, y and size x, y in pixels, which boxes are relative to; None if boxes
    are in pixels. `powers`: of objectness and class, whose product is the confidence; both above 0. `exponent`: factor
    and upper limit of the logarithm of a size. `details`: how many more values belong to a box. Raises ValueError for
    priors that do not match.
    """

    classes: int
    planes: tuple[Planes, ...]
    kind: BoxKind = "center-size"
    scores: ScoreKind = "confidences"
    bins: int = 0
    powers: tuple[float, float] = (1.0, 1.0)
    exponent: tuple[float, float] = (1.0, math.inf)
    details: int = 0
    priors: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.planes) <= LEVELS:
            raise ValueError(f"{len(self.planes)} planes: the kernel takes 1 to {LEVELS}")
        needed = None if self.kind in ("center-size", "corners") else (self.candidates, 6)
        shape = None if self.priors is None else self.priors.shape
        if shape != needed:
            raise ValueError(f"priors {shape}: '{self.kind}' boxes of {self.candidates} candidates need {needed}")

    @property
    def candidates(self) -> int:
        return sum(part.candidates for part in self.planes)


@dataclass(frozen=True)
class FramePlan:
    """What a frame path does: fill the input `image` according to `spec`, run, and return candidates.

    `thresholds` [C]: the minimum confidence per class. `decode` returns candidates that reach the lowest of them, from
    whole outputs. `strided`: how a GPU finds them instead, with the settings of NMS; None if only `decode` can.
    `multi_label`: a box counts once for each class that it reaches. `fixed`: values of the model's other inputs.
    `depth`: batches in flight. `upright`: whether NMS compares boxes by their corners, as a GPU does. `prototypes`: the
    index of the output that is returned whole. `in_frame`: whether final boxes may come in the frame's pixels, since
    nothing else is computed from them in the input's.
    """

    image: str
    spec: InputSpec
    decode: Decode
    strided: Strided | None
    thresholds: NDArray[np.float32]
    multi_label: bool = False
    iou: float = 0.7
    max_det: int = 300
    agnostic: bool = False
    fixed: tuple[tuple[str, NDArray[Any]], ...] = ()
    depth: int = 2
    upright: bool = True
    prototypes: int | None = None
    in_frame: bool = False

    def decoded(self, outputs: Sequence[NDArray[Any]], image: int) -> FrameBoxes:
        """Return the candidates of one image. Values that overflow are dropped later and cause no warning here."""
        with np.errstate(over="ignore", invalid="ignore"):
            candidates = self.decode(outputs, image)
        whole = None if self.prototypes is None else outputs[self.prototypes][image]
        return FrameBoxes(*candidates, False, 0, whole)


class Slot(ABC):
    """What one batch needs while it is processed.

    `times`: nanoseconds of preparing, running and decoding the last batch, as measured by the CPU. `where`: a
    description of what does the work.
    """

    times: list[int]
    where: str

    def on_device(self, array: object) -> DeviceFrame:
        """Describe an array in GPU memory, for `start`. Raises SourceError if it cannot be read there."""
        DeviceFrame.of(array)
        raise SourceError(
            f"frame is in GPU memory, but {self.where} prepares frames: needed an array of NumPy, such as "
            "frame.cpu().numpy()"
        )

    @abstractmethod
    def start(self, frames: Sequence[Frame]) -> None:
        """Start with one frame to a full batch, which must not change before `finish`. A refused frame raises and
        leaves the slot unchanged.
        """

    @abstractmethod
    def finish(self) -> list[FrameBoxes]:
        """Wait, and return the candidates of each frame, in separate memory."""

    @abstractmethod
    def close(self) -> None:
        """Wait for the batch in flight and free everything. Calling it again does nothing."""


class Ring:
    """Uses slots in turn: results come in the order of submission. For one thread at a time."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots, self._free, self._busy = tuple(slots), deque(slots), deque[Slot]()

    @property
    def depth(self) -> int:
        return len(self._slots)

    @property
    def where(self) -> str:
        return self._slots[0].where

    @property
    def in_flight(self) -> int:
        return len(self._busy)

    def submit(self, frames: Sequence[Frame]) -> None:
        """Start a batch. Raises RuntimeError if every slot is busy."""
        if not self._free:
            raise RuntimeError(f"{len(self._busy)} batches are in flight, as many as there are slots: collect() first")
        self._free[0].start(frames)
        self._busy.append(self._free.popleft())

    def collect(self) -> tuple[list[FrameBoxes], list[int]]:
        """Candidates of the oldest batch in flight, and its slot's times. The slot is free again even if this raises.
        Raises RuntimeError if nothing is in flight.
        """
        if not self._busy:
            raise RuntimeError("nothing is in flight: submit() first")
        slot = self._busy.popleft()
        try:
            return slot.finish(), slot.times
        finally:
            self._free.append(slot)

    def close(self) -> None:
        """Wait for the batches in flight and discard their results."""
        while self._busy:
            with suppress(EdgeSparseError):
                self.collect()
        self._free.clear()
        for slot in self._slots:
            slot.close()
