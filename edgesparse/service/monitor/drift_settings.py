"""The section `drift` of the service's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgesparse.service.monitor.obscure import Blur
from edgesparse.values import Section

EVENT = "drift"
"""The name of the event."""
MOST_HOURS = 24 * 7
"""Longest window of newest hours."""
MOST_EXAMPLES = 8


class DriftSettings(Section):
    """Compares what each camera shows with its first week, and reports when it differs."""

    interval: Annotated[float, Field(ge=1, le=600)] = 10.0
    """Seconds between two sampled frames of a camera."""
    baseline: Annotated[int, Field(ge=1, le=1000)] = 168
    """Hours of observation in the baseline, which starts again with another engine or other settings of a camera."""
    window: Annotated[int, Field(ge=1, le=MOST_HOURS)] = 24
    """Newest hours that are compared with it: whole days, so that both include days and nights."""
    limit: Annotated[float, Field(ge=0.05, le=10)] = 0.25
    """Population stability index at which a difference is an alarm."""
    examples: Annotated[int, Field(ge=0, le=MOST_EXAMPLES)] = 3
    """Images stored per alarm; 0: none."""
    blur: Blur = "objects"
    """What is made unrecognizable in them: `none`, detected `objects`, or the whole `frame`."""
    folder: Path | None = None
    """Folder for baselines and examples; default: `drift` in the state folder."""
