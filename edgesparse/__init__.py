"""edgesparse: sparse, measured engines for YOLO-style detectors on small devices.

with edgesparse.load("engines/parts") as detector, edgesparse.open_source("0") as source:
    for frame in source:
        for detection in detector(frame.image):
            print(detection.name, detection.confidence, detection.xyxy)
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgesparse.version import VERSION

if TYPE_CHECKING:
    from edgesparse.api import build as build
    from edgesparse.api import evaluate as evaluate
    from edgesparse.api import inspect as inspect
    from edgesparse.api import load as load
    from edgesparse.api import prune as prune
    from edgesparse.api import quantize as quantize
    from edgesparse.api import slim as slim
    from edgesparse.config import Recipe as Recipe
    from edgesparse.errors import EdgeSparseError as EdgeSparseError
    from edgesparse.input_spec import InputSpec as InputSpec
    from edgesparse.runtime.counts import Counts as Counts
    from edgesparse.runtime.detections import Detection as Detection
    from edgesparse.runtime.detections import Detections as Detections
    from edgesparse.runtime.detector import Detector as Detector
    from edgesparse.runtime.heads.base import Evidence as Evidence
    from edgesparse.runtime.heads.base import Head as Head
    from edgesparse.runtime.heads.base import Layout as Layout
    from edgesparse.stream.frames import Frame as Frame
    from edgesparse.stream.pipeline import Loop as Loop
    from edgesparse.stream.pipeline import run as run
    from edgesparse.stream.sinks.base import Sink as Sink
    from edgesparse.stream.sinks.open import open_sinks as open_sinks
    from edgesparse.stream.sources.base import Source as Source
    from edgesparse.stream.sources.nvmm import NvmmFrames as NvmmFrames
    from edgesparse.stream.sources.open import open_source as open_source

__version__ = VERSION

# ONNX Runtime would store a device id under the home folder. Set the variable to 0 to let it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    **dict.fromkeys(
        ("build", "evaluate", "inspect", "load", "prune", "quantize", "slim"),
        "edgesparse.api",
    ),
    "Recipe": "edgesparse.config",
    "EdgeSparseError": "edgesparse.errors",
    "Counts": "edgesparse.runtime.counts",
    **dict.fromkeys(("Detection", "Detections"), "edgesparse.runtime.detections"),
    "Detector": "edgesparse.runtime.detector",
    **dict.fromkeys(("Evidence", "Head", "Layout"), "edgesparse.runtime.heads.base"),
    "Frame": "edgesparse.stream.frames",
    "InputSpec": "edgesparse.input_spec",
    **dict.fromkeys(("Loop", "run"), "edgesparse.stream.pipeline"),
    "Sink": "edgesparse.stream.sinks.base",
    "open_sinks": "edgesparse.stream.sinks.open",
    "NvmmFrames": "edgesparse.stream.sources.nvmm",
    "Source": "edgesparse.stream.sources.base",
    "open_source": "edgesparse.stream.sources.open",
}
__all__ = sorted(_MODULES)  # pyright: ignore


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, to keep `import edgesparse` fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgesparse' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
