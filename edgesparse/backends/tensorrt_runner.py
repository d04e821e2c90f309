"""Runs a TensorRT plan: buffers sized once, copies and engine in one CUDA graph. One path for releases 8.5 to 11."""

from __future__ import annotations

import logging
import mmap
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import Runner, TensorSpec
from edgesparse.backends.cuda import Gpu, gpu
from edgesparse.backends.cuda_graph import Graph
from edgesparse.backends.tensorrt_inspect import open_plan
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
"""NumPy's name of TensorRT's types, by name: their numbers, and TensorRT's own table, differ between releases."""

_log = logging.getLogger(__name__)


class TensorRTRunner(Runner):
    """A plan on the GPU. `trt` is the module; `batch` sets an open batch (else the profile's usual one is taken).

    `infer` is one graph launch: inputs copied, engine, outputs copied. Buffers of `allocate` are page-locked; others
    are copied through such. On an integrated GPU the engine works in them, and nothing is copied. `plain`: why there
    is no graph, where capture is not possible; the same is enqueued step by step then.

    Raises BuildError for a plan that cannot be loaded, MemoryBudgetExceeded when it needs more than is free,
    BackendUnavailable without a GPU.
    """

    def __init__(self, trt: Any, path: Path, *, batch: int | None = None, dla: int | None = None) -> None:
        self._gpu, self._name, self.plain = gpu(), path.name, ""
        self._held: dict[str, Any] = {"graphs": []}
        self._close = weakref.finalize(self, _free, self._gpu, self._held)
        try:
            with self._gpu.doing(f"loading {path}"):
                self._load(trt, path, batch, dla)
                self.bind(self.allocate())
        except BaseException:
            self.close()
            raise

    def _load(self, trt: Any, path: Path, batch: int | None, dla: int | None) -> None:
        held, card = self._held, self._gpu
        with mapped(path) as data:
            fits(str(path), {"weights": len(data)}, card.free())
            held["plan"] = plan = open_plan(trt, data, str(path), dla)
        engine = plan.engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        shapes = {name: wanted_shape(engine, name, batch) for name in names}
        needed = sum(_bytes(TensorSpec(name, shapes[name], dtype_of(engine, name))) for name in names)
        fits(str(path), {"activations": plan.device_memory, "inputs and outputs": needed}, card.free())
        held["context"] = context = engine.create_execution_context()
        if context is None:
            raise MemoryBudgetExceeded(
                f"{path}: TensorRT makes no context ({plan.log.reason()}): needed {plan.device_memory / 1e6:.0f} MB, "
                f"free {card.free() / 1e6:.0f} MB: end other programs, or build with a smaller batch or input"
            )
        inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
        for name in inputs:
            if -1 in tuple(engine.get_tensor_shape(name)) and not context.set_input_shape(name, shapes[name]):
                raise BuildError(f"{path}: input {name} does not take {shapes[name]}: {plan.log.reason()}")
        specs = [TensorSpec(name, run_shape(context, name), dtype_of(engine, name)) for name in names]
        self.inputs = tuple(spec for spec in specs if spec.name in inputs)
        self.outputs = tuple(spec for spec in specs if spec.name not in inputs)
        held["stream"], held["events"] = card.stream(), (card.event(), card.event())
        held["memory"] = {} if card.integrated else {spec.name: card.memory(_bytes(spec)) for spec in specs}

    def allocate(self) -> dict[str, NDArray[Any]]:
        with self._gpu.doing(f"buffers of {self._name}"):
            return {spec.name: self._gpu.host(spec.shape, spec.dtype) for spec in (*self.inputs, *self.outputs)}

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        with self._gpu.doing(f"binding buffers of {self._name}"):
            self._unbind()
            near = {name: self._near(buffers[name]) for name in (s.name for s in (*self.inputs, *self.outputs))}
            context, memory = self._held["context"], self._held["memory"]
            for name, array in near.items():
                address = int(memory[name]) if memory else self._mapped(array)
                if not context.set_tensor_address(name, address):
                    raise BuildError(f"{self._name}: TensorRT does not take the address of {name}: {self._reason()}")
            copied = [(memory[name], array) for name, array in near.items()] if memory else []
            self._to_gpu, self._from_gpu = copied[: len(self.inputs)], copied[len(self.inputs) :]
            moved = [(array, buffers[name]) for name, array in near.items() if array is not buffers[name]]
            names = {id(near[spec.name]) for spec in self.inputs}
            self._before = [(array, given) for array, given in moved if id(array) in names]
            self._after = [(given, array) for array, given in moved if id(array) not in names]
            self.buffers = dict(buffers)
            self._everything()  # what TensorRT does only the first time can't be captured
            self._held["stream"].synchronize()
            self._run = self._graph(self._everything)
            self._alone: Callable[[], None] | None = None

    def _near(self, array: NDArray[Any]) -> NDArray[Any]:
        return array if self._gpu.pinned(array) is not None else self._gpu.host(array.shape, array.dtype.name)

    def _mapped(self, array: NDArray[Any]) -> int:
        pinned = self._gpu.pinned(array)
        assert pinned is not None
        return pinned.address

    def infer(self) -> None:
        for near, given in self._before:
            np.copyto(near, given)
        with self._gpu.doing(f"running {self._name}"):
            self._run()
            self._held["stream"].synchronize()
        for given, near in self._after:
            np.copyto(given, near)

    def latency(self) -> float:
        """Milliseconds between two events of the GPU, one before the engine's graph and one behind it.

        A run that is not timed goes before, so that the GPU is not waiting for the launch when the clock starts.
        """
        stream, (start, end) = self._held["stream"], self._held["events"]
        with self._gpu.doing(f"timing {self._name}"):
            run = self._alone = self._alone or self._graph(self._engine)
            run()
            start.record(stream)
            run()
            end.record(stream)
            end.synchronize()
            return float(start.time_till(end))

    def close(self) -> None:
        self._close()
        self.buffers, self._to_gpu, self._from_gpu, self._before, self._after = {}, [], [], [], []

    def _graph(self, record: Callable[[], None]) -> Callable[[], None]:
        """A launch of what `record` enqueues; `record` itself where that cannot be captured."""
        try:
            with self._gpu.doing("capturing"):
                graph = Graph(self._held["stream"].handle, record)
        except BuildError as error:
            self.plain = str(error)
            _log.warning("%s runs without a CUDA graph, which costs some time: %s", self._name, error)
            return record
        self._held["graphs"].append(graph)
        return graph.launch

    def _everything(self) -> None:
        driver, stream = self._gpu.driver, self._held["stream"]
        for memory, host in self._to_gpu:
            driver.memcpy_htod_async(memory, host, stream)
        self._engine()
        for memory, host in self._from_gpu:
            driver.memcpy_dtoh_async(host, memory, stream)

    def _engine(self) -> None:
        if not self._held["context"].execute_async_v3(self._held["stream"].handle):
            raise BuildError(f"{self._name}: TensorRT does not run it: {self._reason()}")

    def _reason(self) -> str:
        return str(self._held["plan"].log.reason())

    def _unbind(self) -> None:
        while self._held["graphs"]:
            self._held["graphs"].pop().close()


def fits(what: str, needed: Mapping[str, int], free: int) -> None:
    """Raises MemoryBudgetExceeded, with the figures, unless so many bytes of each are free together."""
    if sum(needed.values()) > free:
        parts = " + ".join(f"{size / 1e6:.1f} MB of {name}" for name, size in needed.items())
        raise MemoryBudgetExceeded(
            f"{what}: needed {parts}, free {free / 1e6:.1f} MB: end other programs, or build with a smaller batch or "
            "input, or in INT8"
        )


def dtype_of(engine: Any, name: str) -> str:
    """NumPy's name of a tensor's type. Raises BuildError for types and layouts that arrays don't have."""
    found, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name).name
    if found not in DTYPES:
        raise BuildError(f"{name} is {found}: needed one of {', '.join(DTYPES)}: convert it in the model")
    if layout != "LINEAR":
        raise BuildError(f"{name} is laid out as {layout}: needed LINEAR: build it without formats of its own")
    if engine.get_tensor_location(name).name != "DEVICE":
        raise BuildError(f"{name} is a shape that the CPU sets: make it a constant in the model")
    return DTYPES[found]


def wanted_shape(engine: Any, name: str, batch: int | None) -> tuple[int, ...]:
    """A tensor's shape; where it is open, an input's usual one of the first profile, or that with this batch.

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
        shape = tuple(took if size == -1 else size for size, took in zip(shape, usual, strict=True))
    if batch is not None and shape and shape[0] != batch:
        raise BuildError(f"{name}: found a batch of {batch}, needed {shape[0]}: build it with batch {batch}")
    return shape


def run_shape(context: Any, name: str) -> tuple[int, ...]:
    """A tensor's shape in this context. Raises BuildError when only a run tells it."""
    shape = tuple(context.get_tensor_shape(name))
    if any(size < 0 for size in shape):
        raise BuildError(f"{name} has the shape {shape}, known only after a run: export the model without NMS")
    return shape


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes without a second copy in memory. Raises BuildError when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BuildError(f"cannot read {path} ({error}): build it again with 'edgesparse build --force'") from None
    try:
        yield data
    finally:
        with suppress(BufferError):  # whoever still looks at it closes it
            data.close()


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _free(card: Gpu, held: dict[str, Any]) -> None:
    """In the order in which one needs the other; what an error of the GPU keeps from being freed is said."""
    memory = held.pop("memory", {})
    steps: list[Callable[[], object]] = [held["stream"].synchronize] if "stream" in held else []
    steps += [graph.close for graph in held["graphs"]]
    steps += [partial(held.pop, name, None) for name in ("context", "plan")]
    steps += [block.free for block in memory.values()]
    for step in (*steps, held.clear):
        _attempt(card, step)


def _attempt(card: Gpu, step: Callable[[], object]) -> None:
    try:
        with card:
            step()
    except card.driver.Error as error:
        _log.warning("memory of the GPU may not be free again: %s", error)
