"""TensorRT's execution contexts: their memory, the shapes of their tensors, scratch memory that several share."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgesparse.backends.cuda.formats import ImageFormat
from edgesparse.backends.cuda.gpu import Gpu, gpu
from edgesparse.backends.tensorrt.inspect import Plan
from edgesparse.errors import BuildError, MemoryBudgetExceeded

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""NumPy's names of TensorRT's types, by name: their numbers, and TensorRT's own table, differ between releases."""


class Scratch:
    """Memory for activations of contexts that never run at the same time: as much as the largest needs, not the sum.

    It is freed when the last runner that uses it is closed. Load the largest engine first: one that needs more than the
    present blocks gets another block, which later ones share.
    """

    def __init__(self) -> None:
        self._blocks: list[ScratchBlock] = []

    def take(self, gpu: Gpu, size: int) -> ScratchBlock:
        """A block of at least `size` bytes; `release` it after use."""
        block = next((block for block in self._blocks if block.size >= size), None)
        if block is None:
            block = ScratchBlock(self._blocks, gpu.memory(size), size)
        block.users += 1
        return block


class ScratchBlock:
    """Device memory that several contexts use in turn."""

    def __init__(self, among: list[ScratchBlock], memory: Any, size: int) -> None:
        self._among, self._memory, self.size, self.users = among, memory, size, 0
        among.append(self)

    @property
    def address(self) -> int:
        return int(self._memory)

    def release(self) -> None:
        """End one use; the last one frees the memory. Call it with the GPU's context current."""
        self.users -= 1
        if self.users == 0:
            self._among.remove(self)
            self._memory.free()


def make_context(trt: Any, plan: Plan, name: str, block: ScratchBlock | None = None) -> Any:
    """A context of a plan with its own memory, or working in `block`. Raises MemoryBudgetExceeded."""
    engine, strategies = plan.engine, getattr(trt, "ExecutionContextAllocationStrategy", None)
    if block is None:
        context = engine.create_execution_context()
    elif strategies is None:
        context = engine.create_execution_context_without_device_memory()
    else:
        context = engine.create_execution_context(strategies.USER_MANAGED)
    if context is None:
        free = gpu().free()
        raise MemoryBudgetExceeded(
            f"{name}: TensorRT creates no context ({plan.log.reason()}): needed {plan.device_memory / 1e6:.0f} MB, "
            f"free {free / 1e6:.0f} MB: stop other programs, or build with a smaller batch or input"
        )
    if block is not None and hasattr(context, "set_device_memory"):
        context.set_device_memory(block.address, block.size)
    elif block is not None:
        context.device_memory = block.address
    return context


def require_memory(name: str, needed: Mapping[str, int], free: int) -> None:
    """Raise MemoryBudgetExceeded, with the figures, unless the sum of the `needed` bytes is free."""
    if sum(needed.values()) > free:
        parts = " + ".join(f"{size / 1e6:.1f} MB of {part}" for part, size in needed.items())
        raise MemoryBudgetExceeded(
            f"{name}: needed {parts}, free {free / 1e6:.1f} MB: stop other programs, or build with a smaller batch or "
            "input, or in INT8"
        )


def dtype_of(engine: Any, name: str, formats: Mapping[str, ImageFormat]) -> str:
    """NumPy's name of a tensor's type for the caller: FP32 for those in `formats`, which are packed from it.

    Raises BuildError for types and layouts that NumPy lacks.
    """
    if name in formats:
        return "float32"
    dtype, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name).name
    if dtype not in DTYPES:
        raise BuildError(f"{name} is {dtype}: needed one of {', '.join(DTYPES)}: convert it in the model")
    if layout != "LINEAR":
        raise BuildError(f"{name} has the layout {layout}: needed LINEAR: build it without custom formats")
    if engine.get_tensor_location(name).name != "DEVICE":
        raise BuildError(f"{name} is a shape that the CPU sets: make it a constant in the model")
    return DTYPES[dtype]


def static_shape(engine: Any, name: str, batch: int | None) -> tuple[int, ...]:
    """A tensor's shape. An open input gets the usual shape of the first profile, with `batch` if that is not None.

    An open batch of an output is `batch`, or 1 until it is known. Raises BuildError when the batch does not fit.
    """
    shape = tuple(engine.get_tensor_shape(name))
    if engine.get_tensor_mode(name).name != "INPUT":
        return tuple((batch or 1) if size == -1 else size for size in shape)
    if -1 in shape:
        low, usual, high = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0))
        if shape[0] == -1 and batch is not None:
            if not low[0] <= batch <= high[0]:
                raise BuildError(f"{name}: found a batch of {batch}, needed {low[0]} to {high[0]}: build it for more")
            usual = (batch, *usual[1:])
        shape = tuple(profile if size == -1 else size for size, profile in zip(shape, usual, strict=True))
    if batch is not None and shape and shape[0] != batch:
        raise BuildError(f"{name}: found a batch of {batch}, needed {shape[0]}: build it with batch {batch}")
    return shape


def run_shape(context: Any, name: str) -> tuple[int, ...]:
    """A tensor's shape in this context. Raises BuildError when it is unknown before a run."""
    shape = tuple(context.get_tensor_shape(name))
    if any(size < 0 for size in shape):
        raise BuildError(f"{name} has the shape {shape}, known only after a run: export the model without NMS")
    return shape


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes, mapped rather than copied. Raises BuildError when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BuildError(f"cannot read {path} ({error}): build it again with 'edgesparse build --force'") from None
    try:
        yield data
    finally:
        with suppress(BufferError):  # closed with the last view
            data.close()
