"""Refuses files of formats other than ONNX, without importing `onnx`, which takes longer than opening a package."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edgesparse.errors import ModelError

FOREIGN = {
    (".pt", ".pth", ".torchscript", ".safetensors", ".ckpt"): "a PyTorch file",
    (".engine", ".plan", ".trt"): "a TensorRT engine, which cannot be converted back",
    (".tflite",): "a TensorFlow Lite file",
    (".pb", ".h5", ".keras"): "a TensorFlow file",
}
"""What is often passed instead of ONNX, by file name suffix."""
CONTENTS = {
    b"PK\3\4": "a PyTorch file or a ZIP archive",
    b"ftrt": "a TensorRT engine, which cannot be converted back",
    b"\x89HDF": "a TensorFlow file",
    b"\x1c\0\0\0TFL3": "a TensorFlow Lite file",
    b"....ORTM": "a model in ONNX Runtime's own format",
    b'........{"': "a safetensors file",
}
"""The same under an ONNX file's name, by how the file begins; a point stands for any byte."""
NO_MODEL = {
    b"version https://git-lfs": "a Git LFS pointer, not the model itself: run 'git lfs pull' where it comes from",
    b"\x1f\x8b": "a gzip archive, not the model itself: unpack it with gunzip",
    b"<": "a web page or XML, not ONNX: download it again",
}
"""What a failed download leaves."""


def refuse_foreign(path: Path) -> None:
    """Raise ModelError, with the export command, if the name or the content is that of a format other than ONNX."""
    begin = b""
    if path.is_file():
        with suppress(OSError), path.open("rb") as file:
            begin = file.read(32)
    for start, advice in NO_MODEL.items():
        if begin.startswith(start):
            raise ModelError(f"{path} is {advice}")
    kinds = [kind for suffixes, kind in FOREIGN.items() if path.suffix.lower() in suffixes]
    for kind in kinds + [kind for start, kind in CONTENTS.items() if _begins(begin, start)]:
        source = path.with_suffix(".pt").name
        raise ModelError(
            f"{path} is {kind}, not ONNX: export the detector to ONNX first, "
            f"for example 'yolo export model={source} format=onnx opset=17'"
        )


def _begins(content: bytes, start: bytes) -> bool:
    return len(content) >= len(start) and all(b in (a, ord(".")) for a, b in zip(content, start, strict=False))
