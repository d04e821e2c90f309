"""edgesparse: really sparse, really measured engines for YOLO-style detectors on small devices.

with edgesparse.load("engines/parts") as detector, edgesparse.open_source("0") as source:
    for frame in source:
        detections = detector(frame.image)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgesparse.version import VERSION

if TYPE_CHECKING:
    from edgesparse.api import Detections as Detections
    from edgesparse.api import Loop as Loop
    from edgesparse.api import load as load
    from edgesparse.api import open_sinks as open_sinks
    from edgesparse.api import open_source as open_source
    from edgesparse.api import run as run

__version__ = VERSION
__all__ = ["Detections", "Loop", "load", "open_sinks", "open_source", "run"]


def __getattr__(name: str) -> Any:
    """The public names are imported when they are first used: `import edgesparse` itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'edgesparse' has no attribute {name!r}")
    from edgesparse import api

    return getattr(api, name)
