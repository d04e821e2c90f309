"""The public names, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgesparse.builder.build import STORE
from edgesparse.builder.targets import open_detector, ready
from edgesparse.config import override
from edgesparse.progress import Progress, quiet
from edgesparse.runtime.detections import Detections
from edgesparse.runtime.detector import Detector
from edgesparse.stream.pipeline import Loop, run
from edgesparse.stream.sinks.open import open_sinks
from edgesparse.stream.sources.open import open_source

__all__ = ["Detections", "Loop", "load", "open_sinks", "open_source", "run"]


def load(
    target: str | Path,
    *,
    store: Path = STORE,
    classes_file: str | None = None,
    progress: Progress = quiet,
    **settings: Any,
) -> Detector:
    """A detector of a package's folder, a recipe or an ONNX file; the latter two are built first unless they were.

    `settings` replace the package's `run:` (conf, iou, max_det, classes, agnostic; source, or a list of them);
    `classes_file` names the classes of an ONNX file that does not. Close it after use. Raises ConfigError, ModelError,
    BuildError, PackageError.
    """
    package = ready(Path(target), store, classes=classes_file, progress=progress)
    return open_detector(package, override(package.manifest.run, settings))
