"""The frame path: frames go in, candidates come out, several batches in flight. What a runner's own path is made of.

A Slot holds all that one batch needs on its way; a Ring hands slots out and collects them in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesparse.config import InputSpec
from edgesparse.errors import EdgeSparseError

Pixels = Literal["bgr", "rgb", "nv12", "yuyv"]
PIXELS: tuple[Pixels, ...] = ("bgr", "rgb", "nv12", "yuyv")
"""In the order in which the kernels number them."""

Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""xyxy [n, 4] in the input's pixels, confidence [n], class_id [n]."""


class Found(NamedTuple):
    """Candidates of an image; `final`: only those that reach their class's confidence, after NMS, the best first."""

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    final: bool = False


NOTHING = Found(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), True)


Decode = Callable[[Sequence[NDArray[Any]], int], Candidates]
"""(raw outputs in the model's order, which image of the batch) -> Candidates with at least the wanted confidence."""


@dataclass(frozen=True)
class Place:
    """What a frame is, and which rectangle of the network's input it fills. All but `pixels` in pixels."""

    pixels: Pixels
    frame_height: int
    frame_width: int
    top: int
    left: int
    height: int
    width: int


Frame = tuple[NDArray[np.uint8], Place]
"""uint8: [H, W, 3] as bgr and rgb, [H * 3 / 2, W] as nv12, [H, W, 2] as yuyv."""


@dataclass(frozen=True)
class Strided:
    """Where candidate r of an image has value k of its box and its score for class c, counted in values:
    `boxes` + r * box_row + k * box_step, `scores` + r * score_row + c * score_step, each in an output.

    `kind`: what the four values are: centre and size, corners, or offsets on the grids `levels`, (rows, columns,
    stride) each. `objectness`: its k among the box's values, where there is one.
    """

    candidates: int
    classes: int
    box_row: int
    box_step: int
    score_row: int
    score_step: int
    first_score: int = 0
    box_output: int = 0
    score_output: int = 0
    objectness: int | None = None
    kind: Literal["centre-size", "corners", "on-grid"] = "centre-size"
    levels: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class FramePlan:
    """What a path must do: fill the input `image` as `spec` says, run, and give the candidates that reach `enough`.

    `enough`: the least confidence of each class. `decode` gives those that reach the least of them, from whole outputs;
    `strided` says where a GPU could find them instead, None where the outputs are small anyway: then also what NMS
    needs. `fixed`: values of the network's other inputs. `every`: a box counts once for each class that it reaches.
    `depth`: batches in flight.
    """

    image: str
    spec: InputSpec
    decode: Decode
    strided: Strided | None
    enough: NDArray[np.float32]
    every: bool = False
    iou: float = 0.7
    max_det: int = 300
    agnostic: bool = False
    fixed: tuple[tuple[str, NDArray[Any]], ...] = ()
    depth: int = 2


class Slot(ABC):
    """What one batch needs on its way. `times`: nanoseconds of preparing, running and decoding the last one, as the CPU
    saw them. `where`: in words, what does it."""

    times: NDArray[np.int64]
    where: str

    @abstractmethod
    def start(self, frames: Sequence[Frame]) -> None:
        """Begin with at least one frame and at most a batch, which must not change before `finish`. A frame that is
        refused raises and leaves the slot as it was."""

    @abstractmethod
    def finish(self) -> list[Found]:
        """Wait; what was found in each frame, in memory of its own."""

    @abstractmethod
    def close(self) -> None:
        """Wait for what is on its way and free everything; calling it again does nothing."""


class Ring:
    """Slots in turn: results come in the order in which the frames went in. For one thread at a time."""

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
        """Raises RuntimeError when every slot is busy: who submits collects."""
        if not self._free:
            raise RuntimeError(f"{len(self._busy)} batches are in flight, as many as there are slots: collect() first")
        self._free[0].start(frames)
        self._busy.append(self._free.popleft())

    def collect(self) -> tuple[list[Found], NDArray[np.int64]]:
        """What was found in the oldest batch that is in flight, and its slot's times. Its slot is free again, also
        where it raises."""
        if not self._busy:
            raise RuntimeError("nothing is in flight: submit() first")
        slot = self._busy.popleft()
        try:
            return slot.finish(), slot.times
        finally:
            self._free.append(slot)

    def close(self) -> None:
        """What is in flight is waited for and dropped."""
        while self._busy:
            with suppress(EdgeSparseError):
                self.collect()
        self._free.clear()
        for slot in self._slots:
            slot.close()
