"""Shape inference in a forked process, since onnx aborts the process on some damaged models."""

from __future__ import annotations

import faulthandler
import os
import signal
import warnings
from contextlib import suppress

import onnx

from edgesparse.errors import ModelError


def infer_shapes(model: onnx.ModelProto, *, strict: bool = True) -> onnx.ModelProto:
    """Return the model with the shape of every value, inferred in a forked process.

    Unless `strict`, values with contradictory shapes, or shapes that cannot be inferred, have none.

    Raises ModelError, with onnx's reason, if shapes contradict each other, and if onnx crashes.
    """
    data = model.SerializeToString()
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python warns about a fork with other threads, whose locks the child may wait for; but it only calls onnx.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _answer(data, strict, write)
    os.close(write)
    try:
        with open(read, "rb") as pipe:  # noqa: PTH123, a descriptor
            answer = pipe.read()
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # no effect on a process that has ended
        os.waitpid(child, 0)
    if answer[:1] == b"+":
        return onnx.ModelProto.FromString(answer[1:])
    reason = answer[1:].decode(errors="replace") or "onnx crashes on it: the file is damaged, export it again"
    raise ModelError(reason)


def _answer(data: bytes, strict: bool, write: int) -> None:
    """In the child: infer, write the result or the reason, and exit without any of the parent's cleanup."""
    try:
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where an abort prints C++
        try:
            model = onnx.ModelProto.FromString(data)
            result = onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
            answer = b"+" + result.SerializeToString()
        except Exception as error:
            answer = b"-" + str(error).encode()
        with open(write, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)
