"""INT8 from a float model and pictures: calibrated once, written in every form that a candidate may be built from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edgesparse.build.worker import Job, Progress
from edgesparse.errors import CalibrationError, ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def picture_files(folder: Path, count: int | None = None) -> list[Path]:
    """The pictures of a folder, by name; at most `count`, spread evenly over them. Raises ConfigError without any."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError(f"no pictures in {folder}: needed files that end in {', '.join(SUFFIXES)}")
    if count is None or count >= len(found):
        return found
    return [found[i * len(found) // count] for i in range(count)]


def hash_of(folder: Path) -> str:
    """sha256 over the pictures of a folder."""
    digest = hashlib.sha256()
    for path in picture_files(folder):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def quantise(job: Job, progress: Progress) -> dict[str, Any]:
    raise CalibrationError("INT8 calibration is not there yet")
