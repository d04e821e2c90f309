"""The section `hard_frames` of the service's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgesparse.service.monitor.obscure import Blur
from edgesparse.values import Memory, Section, Unit

Reason = Literal["near", "blink", "disagreement"]
REASONS: tuple[Reason, ...] = ("near", "blink", "disagreement")


class HardFrameSettings(Section):
    """Stores frames on which the detector was unsure, to be labeled elsewhere."""

    reasons: Annotated[tuple[Reason, ...], Field(min_length=1)] = REASONS
    """What makes it hard: a confidence near the minimum, a track that blinks, disagreement with a shadow engine or
    with the fallback."""
    fallback: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the frames, and of the time, in which the package's fallback engine runs too, to find `disagreement`. It
    stays loaded; 0 for none."""
    near: Unit = 0.1
    """Distance from the minimum confidence below which a detection is near it."""
    pause: Annotated[float, Field(ge=1, le=86400)] = 60.0
    """Seconds after a stored frame in which none of the same camera is stored."""
    per_day: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Most frames stored in 24 hours, of all cameras together."""
    disk: Memory = 500_000_000
    """Total bytes to keep; the oldest frames are removed."""
    blur: Blur = "none"
    """What is made unrecognizable: `none`, detected `objects`, or the whole `frame`."""
    folder: Path | None = None
    """Folder of the frames; default: `hard` in the state folder."""
