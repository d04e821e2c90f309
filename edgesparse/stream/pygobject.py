"""GStreamer by PyGObject, including the system's from a virtual environment that does not see it."""

from __future__ import annotations

import ctypes
import sys
import time
from contextlib import suppress
from typing import Any

_SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
PACKAGES = "python3-gi gir1.2-gst-plugins-base-1.0"
"""Its packages in Debian and Ubuntu, for the system's own Python."""


def gstreamer() -> Any:
    """Return the initialized module Gst. Raises ImportError if this Python has no bindings."""
    _keep_unwinder()
    path = sys.path
    sys.path = [*path, _SYSTEM_PACKAGES]  # only now: nothing else may come from there
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        from gi.repository import Gst, GstApp

        Gst.init(None)
        assert GstApp
        return Gst
    except (ImportError, ValueError) as error:
        version = ".".join(map(str, sys.version_info[:2]))
        detail = f" ({error})" if isinstance(error, ValueError) else ""  # a namespace that is not installed
        raise ImportError(f"Python {version} has no bindings of GStreamer{detail}") from None
    finally:
        sys.path = path


def _keep_unwinder() -> None:
    """Put GCC's unwinder into the process first.

    PyGObject loads GStreamer, and with it libunwind, for all to see. Libraries loaded later would find their
    _Unwind_* functions there, which do not fit the C++ runtime: the first exception in ONNX Runtime would crash.
    """
    with suppress(OSError):  # a system whose C++ runtime is not GCC's
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)


def pull(gst: Any, pipeline: Any, seconds: float) -> tuple[Any, Any]:
    """Return the next sample of the pipeline's appsink `sink`, or the message of the error that prevented it; neither
    if it did not arrive in time."""
    sink, bus, end = pipeline.get_by_name("sink"), pipeline.get_bus(), time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if (sample := sink.try_pull_sample(int(max(0.0, min(0.1, left)) * gst.SECOND))) is not None:
            return sample, None
        if (message := bus.pop_filtered(gst.MessageType.ERROR)) is not None or left <= 0 or sink.is_eos():
            return None, message
