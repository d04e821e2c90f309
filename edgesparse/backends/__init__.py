"""Backends by name. No inference library is imported before it is used."""

from __future__ import annotations

from edgesparse.backends.base import Availability, Backend, BuildOptions, BuildResult, Runner, TensorSpec
from edgesparse.errors import ConfigError

__all__ = [
    "NAMES",
    "Availability",
    "Backend",
    "BuildOptions",
    "BuildResult",
    "Runner",
    "TensorSpec",
    "backend",
]

NAMES = ("tensorrt", "tensorrt-rtx", "onnxruntime", "null")


def backend(name: str) -> Backend:
    """The backend of that name. Raises ConfigError for an unknown one."""
    if name == "tensorrt":
        from edgesparse.backends.tensorrt.driver import TensorRTBackend

        return TensorRTBackend()
    if name == "tensorrt-rtx":
        from edgesparse.backends.tensorrt.rtx import TensorRTRTXBackend

        return TensorRTRTXBackend()
    if name == "onnxruntime":
        from edgesparse.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend()
    if name == "null":
        from edgesparse.backends.null import NullBackend

        return NullBackend()
    raise ConfigError(f"unknown backend {name!r}: use one of {', '.join(NAMES)}")
