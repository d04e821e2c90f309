"""The backends that build and run engines, by name. A new backend is one file, and one line here.

The table is separate from the classes, so that a recipe can be checked without importing them. Values are written like
entry points, `module:Class`; the class is a `Backend` (edgesparse/backends/base.py).
"""

from __future__ import annotations

BACKENDS = {
    "tensorrt": "edgesparse.backends.tensorrt.driver:TensorRTBackend",
    "tensorrt-rtx": "edgesparse.backends.tensorrt.rtx:TensorRTRTXBackend",
    "onnxruntime": "edgesparse.backends.onnxruntime:OnnxRuntimeBackend",
    "null": "edgesparse.backends.null:NullBackend",
}
