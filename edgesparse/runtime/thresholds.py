"""The minimum confidence of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgesparse import config
from edgesparse.errors import ConfigError
from edgesparse.wording import nearest

LOW = 0.1
"""The least confidence that ByteTrack considers."""


def thresholds(run: config.Run, names: Sequence[str], where: str = "run") -> NDArray[np.float32]:
    """Return the minimum confidence per class [C]; infinite for classes not in `run.classes`. Raises ConfigError, which
    starts with `where`, for an unknown class.
    """
    default, single = 0.25, {}
    if isinstance(run.conf, dict):
        single = {key: value for key, value in run.conf.items() if key != "default"}
        default = run.conf.get("default", default)
    else:
        default = run.conf
    least = np.full(len(names), default, np.float32)
    for name, value in single.items():
        least[class_index(name, names, f"{where}.conf")] = value
    if run.classes is not None:
        selected = [class_index(name, names, f"{where}.classes") for name in run.classes]
        least[np.setdiff1d(np.arange(len(names)), selected)] = np.inf
    return least


def lowest_thresholds(run: config.Run, names: Sequence[str]) -> NDArray[np.float32]:
    """Return the thresholds [C] of what counts for any camera. Raises ConfigError for an unknown class."""
    per_camera = [thresholds(run.seen_by(c), names, f"run.cameras.{c.name}") for c in run.cameras]
    least: NDArray[np.float32] = np.stack(per_camera or [thresholds(run, names)]).min(0)
    return least


def for_tracker(least: NDArray[np.float32], run: config.Run) -> NDArray[np.float32]:
    """Lower thresholds [C] to what the tracker considers; the same array with another tracker than ByteTrack."""
    return np.where(np.isfinite(least), np.minimum(least, LOW), least) if run.tracking == "bytetrack" else least


def class_index(name: str, names: Sequence[str], where: str) -> int:
    """Return a class id from its name, or from its id as text. Raises ConfigError, which starts with `where`."""
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and len(name) < 10 and int(name) < len(names):
        return int(name)
    raise ConfigError(f"{where}: no class '{name}'{nearest(name, names)}")
