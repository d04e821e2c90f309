"""How a frame becomes a detector's input, and the description of a detector without its engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, Strict

from edgesparse.errors import ModelError
from edgesparse.values import Divisors, Section, Size, Triple

Letterbox = Literal["centre", "top-left", "stretch", "crop"]
Colour = Literal["rgb", "bgr"]


Keypoints = Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], Annotated[int, Field(ge=2, le=3)]], Strict(False)]
"""How many keypoints a pose has, and the values of each: 2 for x, y, or 3 with the confidence."""


class InputSpec(Section):
    """How a frame becomes the model's input: `(pixel * scale - mean) / std` per channel, after resizing."""

    size: Size
    """Height and width in pixels."""
    letterbox: Letterbox = "centre"
    """Where the resized frame is placed; `stretch` does not keep the aspect ratio, `crop` cuts the longer side off at
    both ends, as classifiers do."""
    pad: Annotated[int, Field(ge=0, le=255)] = 114
    """Gray level around the frame."""
    colour: Colour = "rgb"
    """Order of the channels."""
    scale: float = 1 / 255
    """Factor for pixel values 0..255."""
    mean: Triple = (0.0, 0.0, 0.0)
    """Subtracted after scaling: one number, or one per channel in the order of `colour`."""
    std: Divisors = (1.0, 1.0, 1.0)
    """Divisor after subtracting: one number, or one per channel."""

    def check_size(self, size: Sequence[int]) -> None:
        """Raise ModelError unless the model's input has this (height, width)."""
        if tuple(size) != self.size:
            actual, expected = "x".join(map(str, size)), "x".join(map(str, self.size))
            raise ModelError(f"the model's input is {actual}, the recipe's input.size is {expected}: make them equal")


class Input(Section):
    """The recipe's part of InputSpec. Keys that it leaves out come from the model and from the head's convention."""

    size: Size | None = None
    letterbox: Letterbox | None = None
    pad: Annotated[int, Field(ge=0, le=255)] | None = None
    colour: Colour | None = None
    scale: float | None = None
    mean: Triple | None = None
    std: Divisors | None = None

    def resolve(self, convention: InputSpec) -> InputSpec:
        return convention.model_copy(update=self.model_dump(exclude_none=True))


class DetectorSpec(Section):
    """How frames become inputs and raw outputs become detections."""

    head: str
    classes: tuple[str, ...]
    input: InputSpec
    keypoints: Keypoints | None = None
