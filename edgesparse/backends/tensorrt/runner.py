"""Runs a TensorRT plan: buffers sized once, copies and engine in one CUDA graph. One path for releases 8.5 to 11."""

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
from edgesparse.backends.tensorrt.context import Scratch, dtype_of, fits, make_context, mapped, run_shape, wanted_shape
from edgesparse.backends.tensorrt.inspect import open_plan
from edgesparse.errors import BackendUnavailable, BuildError, MemoryBudgetExceeded

_log = logging.getLogger(__name__)


class TensorRTRunner(Runner):
    """A plan on the GPU. `trt` is the module; `batch` sets an open batch (else the profile's usual one is taken).

    `infer` is one graph launch: inputs copied, engine, outputs copied. Buffers of `allocate` are page-locked; others
    are copied through such. On an integrated GPU the engine works in them, and nothing is copied. `plain`: why there
    is no graph, where capture is not possible; the same is enqueued step by step then. `scratch`: activations' memory
    shared with other runners, none of which may run at the same time.

    Raises BuildError for a plan that cannot be loaded, MemoryBudgetExceeded when it needs more than is free,
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
        self._run: Callable[[], None] = self._run_anew
        self._alone: Callable[[], None] | None = None
        try:
            with self._gpu.errors_of(f"loading {path}"):
                self._load(path, batch, dla)
                self.bind(self.allocate())
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, batch: int | None, dla: int | None) -> None:
        held, card = self._held, self._gpu
        with mapped(path) as data:
            fits(str(path), {"weights": len(data)}, card.free())
            held["plan"] = plan = open_plan(self._trt, data, str(path), dla)
        engine = plan.engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._shapes = {name: wanted_shape(engine, name, batch) for name in names}
        needed = sum(_bytes(TensorSpec(name, self._shapes[name], dtype_of(engine, name))) for name in names)
        fits(str(path), {"activations": plan.device_memory, "inputs and outputs": needed}, card.free())
        context = self._context()
        specs = [TensorSpec(name, run_shape(context, name), dtype_of(engine, name)) for name in names]
        inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
        self.inputs = tuple(spec for spec in specs if spec.name in inputs)
        self.outputs = tuple(spec for spec in specs if spec.name not in inputs)
        held["stream"], held["events"] = card.stream(), (card.event(), card.event())

    def _context(self) -> Any:
        """One more context, with the wanted shapes."""
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
        """Slots that do it all on the GPU; this runner's own buffers are freed, and made anew should it run again.

        None, with a warning, where the kernels can be neither found nor compiled, or do not take the input, for its
        type or because a batch is more than 64 frames.

        On a GPU with memory of its own each has a context, so that one batch's frames come over the bus while another's
        engine runs. An integrated GPU reads them as it reads all else: there, and where shapes are open or scratch
        memory is shared, slots share context and stream, and what overlaps is the CPU's part.
        """
        image = next(spec for spec in self.inputs if spec.name == plan.image)
        try:
            if image.dtype not in ("float32", "float16", "int8", "uint8"):
                raise BackendUnavailable(f"its input is {image.dtype}")
            if image.shape[0] > IMAGES:
                raise BackendUnavailable(f"its batch is {image.shape[0]}, more than {IMAGES}")
            found = kernels(self._gpu)
        except BackendUnavailable as error:
            _log.warning("%s: the CPU prepares frames and finds boxes: %s", self._name, str(error))
            return []
        with self._gpu.errors_of(f"freeing buffers of {self._name}"):
            self._unbind()
        slots: list[Slot] = []
        while len(slots) < plan.depth:
            try:
                slots.append(CudaSlot(self._gpu, found, self._engine_of(len(slots)), plan))
            except MemoryBudgetExceeded as error:  # noqa: PERF203, a loop of two
                if not slots:
                    raise
                _log.warning("%s: %d batches in flight, not %d: %s", self._name, len(slots), plan.depth, str(error))
                break
        return slots

    def _engine_of(self, slot: int) -> Engine:
        card, held = self._gpu, self._held
        engine = held["plan"].engine
        is_open = any(-1 in tuple(engine.get_tensor_shape(name)) for name in self._shapes)
        which, stream = 0, held["stream"]
        if slot and not (card.integrated or self._scratch or is_open):
            with card.errors_of(f"loading {self._name}"):
                fits(self._name, {"activations": held["plan"].device_memory}, card.free())
                self._context()
                which, stream = len(held["contexts"]) - 1, card.stream()

        def enqueue(addresses: Mapping[str, int]) -> None:
            context = held["contexts"][which]
            self._place(context, addresses)
            self._execute(context, stream)

        return Engine(self._name, self.inputs, self.outputs, stream, enqueue, self.plain)

    def _place(self, context: Any, addresses: Mapping[str, int]) -> None:
        for name, at in addresses.items():
            if not context.set_tensor_address(name, at):
                raise BuildError(f"{self._name}: TensorRT does not take the address of {name}: {self._reason()}")

    def allocate(self) -> dict[str, NDArray[Any]]:
        with self._gpu.errors_of(f"buffers of {self._name}"):
            return {spec.name: self._gpu.host(spec.shape, spec.dtype) for spec in (*self.inputs, *self.outputs)}

    def frame_buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        with self._gpu.errors_of(f"a frame for {self._name}"):
            return self._gpu.host(shape, "uint8")

    def _bind(self, buffers: Mapping[str, NDArray[Any]]) -> None:
        with self._gpu.errors_of(f"binding buffers of {self._name}"):
            self._unbind()
            specs, card = (*self.inputs, *self.outputs), self._gpu
            near = {spec.name: self._near(buffers[spec.name]) for spec in specs}
            memory = self._held["memory"] = {} if card.integrated else {s.name: card.memory(_bytes(s)) for s in specs}
            self._at = {name: int(memory[name]) if memory else self._mapped(array) for name, array in near.items()}
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

    def _near(self, array: NDArray[Any]) -> NDArray[Any]:
        return array if self._gpu.pinned(array) is not None else self._gpu.host(array.shape, array.dtype.name)

    def _mapped(self, array: NDArray[Any]) -> int:
        pinned = self._gpu.pinned(array)
        assert pinned is not None
        return pinned.address

    def infer(self) -> None:
        for near, given in self._before:
            np.copyto(near, given)
        with self._gpu.errors_of(f"running {self._name}"):
            self._run()
            self._held["stream"].synchronize()
        for given, near in self._after:
            np.copyto(given, near)

    def latency(self) -> float:
        """Milliseconds between two events of the GPU, one before the engine's graph and one behind it.

        A run that is not timed goes before, so that the GPU is not waiting for the launch when the clock starts.
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
        """A launch of what `record` enqueues; `record` itself where that cannot be captured."""
        try:
            with self._gpu.errors_of("capturing"):
                graph = Graph(self._held["stream"].handle, record)
        except BuildError as error:
            self.plain = str(error)
            _log.warning("%s runs without a CUDA graph, which costs some time: %s", self._name, self.plain)
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
        context = self._held["contexts"][0]
        self._place(context, self._at)
        self._execute(context, self._held["stream"])

    def _execute(self, context: Any, stream: Any) -> None:
        if not context.execute_async_v3(stream.handle):
            raise BuildError(f"{self._name}: TensorRT does not run it: {self._reason()}")

    def _reason(self) -> str:
        return str(self._held["plan"].log.reason())

    def _run_anew(self) -> None:
        self.bind(self.allocate())
        self._run()

    def _unbind(self) -> None:
        while self._held["graphs"]:
            self._held["graphs"].pop().close()
        for block in self._held.pop("memory").values():
            block.free()
        self._held["memory"] = {}
        self._run, self._alone = self._run_anew, None
        self.buffers, self._to_gpu, self._from_gpu, self._before, self._after = {}, [], [], [], []


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _free(card: Gpu, held: dict[str, Any]) -> None:
    """In the order in which one needs the other."""
    memory = held.pop("memory", {})
    steps: list[Callable[[], object]] = [held["stream"].synchronize] if "stream" in held else []
    steps += [graph.close for graph in held["graphs"]]
    steps += [partial(held.pop, name, None) for name in ("contexts", "plan")]
    steps += [block.free for block in memory.values()] + [block.leave for block in held["blocks"]]
    card.free_all([*steps, held.clear])
