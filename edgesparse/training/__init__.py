"""2:4 sparsity in a PyTorch training loop, and a check that an exported ONNX file still has it.

`sparsify` needs PyTorch (`pip install edgesparse[train]`); `check_onnx` does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesparse.training.check import check_onnx as check_onnx
    from edgesparse.training.masks import sparsify as sparsify

_MODULES = {"check_onnx": "edgesparse.training.check", "sparsify": "edgesparse.training.masks"}
__all__ = ["check_onnx", "sparsify"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that PyTorch is only imported if needed."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgesparse.training' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
