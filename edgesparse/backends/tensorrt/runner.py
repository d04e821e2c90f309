"""Run a TensorRT plan of releases 8.5 to 11: fixed buffers, copies and engine in one CUDA graph."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import Runner, TensorSpec
from edgesparse.backends.cuda.gpu import Gpu, gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.cuda.kernels import kernels
from edgesparse.backends.cuda.layouts import IMAGES
from edgesparse.backends.cuda.slots import CudaSlot, Engine
from edgesparse.backends.frames import FramePlan, Slot
from edgesparse.backends.tensorrt import image_format
from edgesparse.backends.tensorrt.context import (
    Scratch,
    dtype_of,
    make_context,
    mapped,
    require_memory,
    run_shape,
    static_shape,
)
from edgesparse.backends.tensorrt.inspect import open_plan
from edgesparse.errors import BackendUnavailable, BuildError, MemoryBudgetExceeded

_log = logging.getLogger(__name__)


class TensorRTRunner(Runner):
    """A plan on the GPU. `trt`: the module. `batch`: the size of an open batch; None for the profile's usual one.

    `infer` is one graph launch: copy inputs, run the engine, copy outputs. Buffers of `allocate` are page-locked; other
    buffers are copied through page-locked ones. On an integrated GPU the engine works in them without copies. `plain`:
    why there is no graph, if capture is impossible; then the steps are enqueued one by one. `scratch`: memory for
    activations shared with other runners, none of which may run at the same time.

    Raises BuildError for a plan that cannot be loaded, MemoryBudgetExceeded if it needs more than is free,
    BackendUnavailable without a GPU.
    """

    def __init__(
        self,
        trt: Any,
        path: Path,
        *,
        batch: int | None = None,
        dla: int | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self._trt, self._gpu, self._name, self.plain, self._scratch = trt, gpu(), path.name, "", scratch
        self._held: dict[str, Any] = {"graphs": [], "memory": {}, "contexts": [], "blocks": []}
        self._close = weakref.finalize(self, _free, self._gpu, self._held)
        self._run: Callable[[], None] = self._bind_and_run
        self._alone: Callable[[], None] | None = None
        try:
            with self._gpu.errors_of(f"loading {path}"):
                self._load(path, batch, dla)
                self.bind(self.allocate())
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, batch: int | None, dla: int | None) -> None:
        held, gpu = self._held, self._gpu
        with mapped(path) as data:
            require_memory(str(path), {"weights": len(data)}, gpu.free())
            held["plan"] = plan = open_plan(self._trt, data, str(path), dla)
        engine = plan.engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._shapes = {name: static_shape(engine, name, batch) for name in names}
        self._formats = formats = image_format.read(engine)
        specs = [TensorSpec(name, self._shapes[name], dtype_of(engine, name, formats)) for name in names]
        needed = sum(_bytes(self._stored(spec)) for spec in specs)
        require_memory(str(path), {"activations": plan.device_memory, "inputs and outputs": needed}, gpu.free())
        context = self._context()
        specs = [TensorSpec(spec.name, run_shape(context, spec.name), spec.dtype) for spec in specs]
        inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
        self.inputs = tuple(spec for spec in specs if spec.name in inputs)
        self.outputs = tuple(spec for spec in specs if spec.name not in inputs)
        held["stream"], held["events"] = gpu.stream(), (gpu.event(), gpu.event())

    def _stored(self, spec: TensorSpec) -> TensorSpec:
        """The tensor as the engine has it in memory."""
        return self._formats[spec.name].stored(spec) if spec.name in self._formats else spec

    def _context(self) -> Any:
        """Create another context with the static shapes set."""
        plan = self._held["plan"]
        block = self._scratch.take(self._gpu, plan.device_memory) if self._scratch else None
        if block is not None:
            self._held["blocks"].append(block)
        context = make_context(self._trt, plan, self._name, block)
        self._held["contexts"].append(context)
        for name, shape in self._shapes.items():
            if plan.engine.get_tensor_mode(name).name != "INPUT" or -1 not in tuple(plan.engine.get_tensor_shape(name)):
                continue
            if not context.set_input_shape(name, shape):
                raise BuildError(f"{self._name}: input {name} does not take {shape}: {self._reason()}")
        return context

    def frames(self, plan: FramePlan) -> list[Slot]:
        """Slots that do all the work on the GPU. This runner's own buffers are freed until it runs itself.

        The list is empty, with a warning, if the kernels cannot be compiled or do not support the type of the input
        or a batch of more than 64 frames.

        On a GPU with its own memory each slot has a context, so that frames of one batch come over the bus while the
        engine runs another. On an integrated GPU, with open shapes or with shared scratch memory, slots share context
        and stream, and only the CPU's work overlaps.
        """
        image = self._stored(next(spec for spec in self.inputs if spec.name == plan.image))
        try:
            if image.dtype not in ("float32", "float16", "int8", "uint8"):
                raise BackendUnavailable(f"its input is {image.dtype}")
            if image.shape[0] > IMAGES:
                raise BackendUnavailable(f"its batch is {image.shape[0]}, more than {IMAGES}")
            loaded = kernels(self._gpu)
        except BackendUnavailable as error:
            _log.warning("%s: the CPU prepares frames and finds boxes: %s", self._name, str(error))
            return []
        with self._gpu.errors_of(f"freeing buffers of {self._name}"):
            self._unbind()
        slots: list[Slot] = []
        while len(slots) < plan.depth:
            try:
                slots.append(CudaSlot(self._gpu, loaded, self._engine_of(len(slots)), plan))
            except MemoryBudgetExceeded as error:  # noqa: PERF203, a loop of two
                if not slots:
                    raise
                _log.warning("%s: %d batches in flight, not %d: %s", self._name, len(slots), plan.depth, str(error))
                break
        return slots

    def _engine_of(self, slot: int) -> Engine:
        gpu, held = self._gpu, self._held
        engine = held["plan"].engine
        is_open = any(-1 in tuple(engine.get_tensor_shape(name)) for name in self._shapes)
        index, stream, shared = 0, held["stream"], bool(gpu.integrated or self._scratch or is_open)
        if slot and not shared:
            with gpu.errors_of(f"loading {self._name}"):
                if slot == len(held["contexts"]):  # an earlier detector may have left one
                    require_memory(self._name, {"activations": held["plan"].device_memory}, gpu.free())
                    self._context()
                index, stream = slot, gpu.stream()

        def enqueue(addresses: Mapping[str, int]) -> None:
            context = held["contexts"][index]
            self._set_addresses(context, addresses)
            self._execute(context, stream)

        inputs = tuple(map(self._stored, self.inputs))
        return Engine(self._name, inputs, self.outputs, stream, enqueue, self.plain, self._formats, shared)

    def _set_addresses(self, context: Any, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise BuildError(f"{self._name}: TensorRT refuses the address of {name}: {self._reason()}")

    def allocate(self) -> dict[str, NDArray[Any]]:
        with self._gpu.errors_of(f"allocating buffers of {self._name}"):
            return {spec.name: self._gpu.host(spec.shape, spec.dtype) for spec in (*self.inputs, *self.outputs)}

    def frame_buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        with self._gpu.errors_of(f"allocating a frame for {self._name}"):
            return self._gpu.host(shape, "uint8")

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        with self._gpu.errors_of(f"binding buffers of {self._name}"):
            self._unbind()
            specs, gpu = tuple(map(self._stored, (*self.inputs, *self.outputs))), self._gpu
            pinned = {spec.name: self._pinned(buffers[spec.name], spec) for spec in specs}
            memory = self._held["memory"] = {} if gpu.integrated else {s.name: gpu.memory(_bytes(s)) for s in specs}
            self._addresses = {
                name: int(memory[name]) if memory else self._mapped(array) for name, array in pinned.items()
            }
            copied = [(memory[name], array) for name, array in pinned.items()] if memory else []
            self._to_gpu, self._from_gpu = copied[: len(self.inputs)], copied[len(self.inputs) :]
            staged = [spec.name for spec in specs if pinned[spec.name] is not buffers[spec.name]]
            inputs = {spec.name for spec in self.inputs}
            self._before = [self._staging(name, buffers[name], pinned[name]) for name in staged if name in inputs]
            self._after = [(buffers[name], pinned[name]) for name in staged if name not in inputs]
            self.buffers = dict(buffers)
            self._steps()  # TensorRT's work on the first run cannot be captured
            self._held["stream"].synchronize()
            self._run = self._graph(self._steps)

    def _pinned(self, array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
        """The array itself if it is page-locked and as the engine needs it, else memory to copy it through."""
        same = spec.name not in self._formats and self._gpu.pinned(array) is not None
        return array if same else self._gpu.host(spec.shape, spec.dtype)

    def _staging(self, name: str, buffer: NDArray[Any], pinned: NDArray[Any]) -> Callable[[], None]:
        if name in self._formats:
            return partial(self._formats[name].pack, buffer, pinned)
        return partial(np.copyto, pinned, buffer)

    def _mapped(self, array: NDArray[Any]) -> int:
        pinned = self._gpu.pinned(array)
        assert pinned is not None
        return pinned.address

    def infer(self) -> None:
        for copy in self._before:
            copy()
        with self._gpu.errors_of(f"running {self._name}"):
            self._run()
            self._held["stream"].synchronize()
        for buffer, pinned in self._after:
            np.copyto(buffer, pinned)

    def latency(self) -> float:
        """Milliseconds between two events of the GPU, before and after the engine's graph.

        A run that is not timed comes first, so that the GPU does not wait for the launch when the clock starts.
        """
        if not self.buffers:
            self.bind(self.allocate())
        stream, (start, end) = self._held["stream"], self._held["events"]
        with self._gpu.errors_of(f"timing {self._name}"):
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
        """A launch of the work that `record` enqueues; `record` itself if it cannot be captured."""
        try:
            with self._gpu.errors_of("capturing"):
                graph = Graph(self._held["stream"].handle, record)
        except BuildError as error:
            self.plain = str(error)
            _log.warning("%s runs without a CUDA graph, which costs some time: %s", self._name, self.plain)
            return record
        self._held["graphs"].append(graph)
        return graph.launch

    def _steps(self) -> None:
        driver, stream = self._gpu.driver, self._held["stream"]
        for memory, host in self._to_gpu:
            driver.memcpy_htod_async(memory, host, stream)
        self._engine()
        for memory, host in self._from_gpu:
            driver.memcpy_dtoh_async(host, memory, stream)

    def _engine(self) -> None:
        context = self._held["contexts"][0]
        self._set_addresses(context, self._addresses)
        self._execute(context, self._held["stream"])

    def _execute(self, context: Any, stream: Any) -> None:
        if not context.execute_async_v3(stream.handle):
            raise BuildError(f"{self._name}: TensorRT does not run it: {self._reason()}")

    def _reason(self) -> str:
        return str(self._held["plan"].log.reason())

    def _bind_and_run(self) -> None:
        self.bind(self.allocate())
        self._run()

    def _unbind(self) -> None:
        while self._held["graphs"]:
            self._held["graphs"].pop().close()
        for block in self._held.pop("memory").values():
            block.free()
        self._held["memory"] = {}
        self._run, self._alone = self._bind_and_run, None
        self.buffers, self._to_gpu, self._from_gpu, self._before, self._after = {}, [], [], [], []


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _free(gpu: Gpu, held: dict[str, Any]) -> None:
    """Free everything, users before what they use."""
    memory = held.pop("memory", {})
    steps: list[Callable[[], object]] = [held["stream"].synchronize] if "stream" in held else []
    steps += [graph.close for graph in held["graphs"]]
    steps += [partial(held.pop, name, None) for name in ("contexts", "plan")]
    steps += [block.free for block in memory.values()] + [block.release for block in held["blocks"]]
    gpu.free_all([*steps, held.clear])
