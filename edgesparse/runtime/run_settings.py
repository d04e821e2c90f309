"""What the settings of a run mean for a detector, and which it refuses."""

from __future__ import annotations

from edgesparse import config
from edgesparse.errors import ConfigError
from edgesparse.runtime.heads.base import Task
from edgesparse.tiles import Tiles


def is_tiled(run: config.Run) -> bool:
    """Whether any camera has tiles."""
    return any(isinstance(tiles, Tiles) for tiles in (run.tiles, *(camera.tiles for camera in run.cameras)))


def check_task(task: Task, spec: config.DetectorSpec, run: config.Run) -> None:
    """Raise ConfigError for settings that mean nothing for a task."""
    if task == "obb" and spec.input.letterbox == "stretch":
        raise ConfigError("input.letterbox: found stretch, needed centre or top-left: rotated boxes would be sheared")
    if task == "classify" and is_tiled(run):
        raise ConfigError("run.tiles: a classifier sees the whole frame: remove tiles, or use a detector")
    if task == "classify" and (run.tracking or any(camera.zones for camera in run.cameras)):
        raise ConfigError("run: a classifier sees the whole frame: remove tracking and zones, or use a detector")
