"""Tiles: the parts of a large frame that go through the engine beside the whole frame."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, Strict, model_validator

from edgesparse.errors import ConfigError
from edgesparse.values import Section, Size

MOST = 64
"""Most images that one frame becomes, the whole frame included: as many as one launch of the letterbox kernel takes."""

_Share = Annotated[float, Field(ge=0, le=1)]
_Region = Annotated[tuple[_Share, _Share, _Share, _Share], Strict(False)]


class Part(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Tiles(Section):
    """Parts of a frame that the detector also sees at a higher resolution than in the whole frame."""

    size: Annotated[Size | None, Strict(False)] = None
    """Height and width of a tile in the frame's pixels, or one number; default: the model's input size, or more where
    that would be more than 63 tiles."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Share of a tile's side by which neighbors overlap. Objects smaller than that are whole in some tile."""
    regions: Annotated[tuple[_Region, ...], Strict(False), Field(max_length=MOST - 1)] = ()
    """Instead of a grid: fixed rectangles, as left, top, right, bottom in shares (0..1) of the frame."""

    @model_validator(mode="after")
    def _one_way(self) -> Tiles:
        if self.regions and self.size is not None:
            raise ValueError("size or regions, not both")
        for left, top, right, bottom in self.regions:
            if right - left < 0.01 or bottom - top < 0.01:
                raise ValueError("regions as [left, top, right, bottom], each at least 0.01 wide and high")
        return self


def _short(value: object) -> object:
    """Convert `auto`, a tile's size, or `SIZE,OVERLAP` to a mapping."""
    if value == "none" or isinstance(value, dict | Tiles):
        return value
    if value == "auto":
        return {}
    size, _, overlap = str(value).partition(",")
    try:
        return {"size": int(size), **({"overlap": float(overlap)} if overlap else {})}
    except ValueError:
        raise ValueError("none, auto, a size as 640 or 640,0.2, or a mapping with size, overlap or regions") from None


TilesSetting = Annotated[Tiles | Literal["none"], BeforeValidator(_short)]
"""`none`; `auto`, tiles of the model's input size; a size; or the keys of `Tiles`."""


def parts_of(tiles: Tiles, frame: tuple[int, int], size: tuple[int, int]) -> tuple[Part, ...]:
    """Return the parts of a frame of (height, width) for a model whose input is `size`, row by row.

    Tiles are all of one size; the last of a row and of a column end where the frame does. A frame that is no larger
    than a tile has none. Corners have even coordinates where the frame's sides are even, as NV12 and YUYV need. Raises
    ConfigError if there are more than MOST - 1.
    """
    if tiles.regions:
        return tuple(_region(region, frame) for region in tiles.regions)
    requested = _even(tiles.size or size)
    fitting = requested
    while (count := _count(fitting, tiles.overlap, frame)) >= MOST:
        fitting = _even((ceil(fitting[0] * 1.1), ceil(fitting[1] * 1.1)))
    if tiles.size is not None and fitting != requested:
        raise ConfigError(
            f"run.tiles: found {_count(requested, tiles.overlap, frame)} tiles of {_text(requested)} in a frame of "
            f"{_text(frame)}, needed at most {MOST - 1}: set tiles.size to {_text(fitting)}, or to 'auto'"
        )
    if count == 1:
        return ()
    height, width = min(fitting[0], frame[0]), min(fitting[1], frame[1])
    return tuple(
        Part(top, left, height, width)
        for top in _starts(height, tiles.overlap, frame[0])
        for left in _starts(width, tiles.overlap, frame[1])
    )


def _count(size: tuple[int, int], overlap: float, frame: tuple[int, int]) -> int:
    rows, columns = (len(_starts(side, overlap, whole)) for side, whole in zip(size, frame, strict=True))
    return rows * columns


def _starts(side: int, overlap: float, whole: int) -> range | list[int]:
    """Where tiles of this side begin."""
    if side >= whole:
        return [0]
    step = max(2, side - int(side * overlap)) & ~1
    return [*range(0, whole - side, step), whole - side]


def _region(region: tuple[float, float, float, float], frame: tuple[int, int]) -> Part:
    left, top, right, bottom = (int(share * frame[1 - i % 2]) & ~1 for i, share in enumerate(region))
    top, left = min(top, max(0, frame[0] - 2)), min(left, max(0, frame[1] - 2))
    # The last row and column belong to a region that reaches them, also where the frame's sides are odd.
    bottom, right = (frame[0] if region[3] == 1 else bottom), (frame[1] if region[2] == 1 else right)
    return Part(top, left, max(2, bottom - top), max(2, right - left))


def _even(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
