"""A shadow: a new engine that runs beside the active one before it is switched. What a recipe, a deploy and the service
tell each other about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgesparse.values import Memory, Section, Unit

REQUEST = "shadow.json"
"""In the service's state folder: what a deploy asks the service to run."""
MOST_BYTES = 64 << 10
_Count = Annotated[int, Field(ge=0, le=1 << 53)]
_Text = Annotated[str, Field(max_length=4000)]


class ShadowSettings(Section):
    """How a new engine runs beside the active one before a device switches to it."""

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Most of the frames that it sees, and of the time that it runs, as a share."""
    frames: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Frames to compare."""
    boxes: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Boxes of the active engine to compare."""
    seconds: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    """Time for both; the switch is refused if they are not reached."""
    min_agreement: Unit = 0.8
    """Share of the active engine's boxes that it must detect, and of its own boxes that the active engine must have."""
    max_memory: Memory | None = None
    """Most bytes that loading it may take; default: what the service's limit leaves."""


class ShadowRequest(Section):
    """What the service is to run. `id`: unique. `package`: its folder."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    package: _Text
    settings: ShadowSettings


class ShadowResult(Section):
    """The shadow in the service's status. `recall`, `precision`: as in Agreement; None while no box can be compared.
    `latency_ms`: median from frame to detections. `active_ms`: mean of the active engine, before and beside it.
    `busy`: the share of the time in which it ran. `memory_mb`: what loading took. `why`: the reason of a failure."""

    id: _Text
    state: Literal["loading", "running", "done", "failed"]
    package: _Text = ""
    candidate: _Text = ""
    frames: _Count = 0
    boxes: _Count = 0
    errors: _Count = 0
    recall: Unit | None = None
    precision: Unit | None = None
    latency_ms: Annotated[float, Field(ge=0)] | None = None
    active_ms: tuple[float | None, float | None] = (None, None)
    busy: Unit = 0.0
    memory_mb: Annotated[float, Field(ge=0)] | None = None
    why: _Text = ""
