"""A batch on the GPU as one CUDA graph: letterbox, engine, selection of boxes."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.cuda.descriptions import Descriptions
from edgesparse.backends.cuda.formats import ImageFormat
from edgesparse.backends.cuda.gpu import Gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.cuda.images import Image
from edgesparse.backends.cuda.kernels import Kernels, Launch
from edgesparse.backends.cuda.layouts import input_of
from edgesparse.backends.cuda.lent import Lent
from edgesparse.backends.cuda.memory import Memory
from edgesparse.backends.cuda.outputs import MOST, kernel_of, outputs_of, thresholds_of
from edgesparse.backends.cuda.selection import Selection
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.backends.frames import Frame, FrameBoxes, FramePlan, Slot
from edgesparse.errors import BuildError

CAPACITY = 1024
"""Boxes per image that fit; if there are more, the whole outputs are copied back."""
NMS_LIMIT = MOST
"""Up to this many boxes per image the GPU runs NMS."""
ROWS = 2
"""Rows of pixels per thread of the letterbox, as in frames.cu."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What a slot runs. `enqueue` puts it on the stream with its tensors at the given addresses on the GPU.

    `inputs`, `outputs`: as they are in memory. `plain`: why it cannot be captured in a graph, if that is known.
    `formats`: how it takes an image that is not N x 3 x H x W of the values themselves, by input. `shared`: other slots
    use the stream too, so that whoever waits for all of it waits for their batches.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stream: Any
    enqueue: Callable[[Mapping[str, int]], None]
    plain: str = ""
    formats: Mapping[str, ImageFormat] = field(default_factory=dict)
    shared: bool = False


class CudaSlot(Slot):
    """A slot whose work is one graph per number of frames.

    The letterbox reads frames directly from page-locked memory, and only the rows it needs; other frames are copied
    into page-locked memory of the slot first. For batches of several images a GPU with its own memory copies these rows
    into it instead: its copy engine does that while another batch runs, whose kernels the letterbox would otherwise
    delay, waiting for the bus. Their addresses and sizes are arguments of the letterbox, which the graph
    updates before a launch. `plain`: why there is no graph, if capture is impossible; then the steps are enqueued one
    by one. Raises BuildError, MemoryBudgetExceeded.
    """

    def __init__(self, gpu: Gpu, kernels: Kernels, engine: Engine, plan: FramePlan) -> None:
        self._gpu, self._kernels, self._engine, self._plan, self.plain = gpu, kernels, engine, plan, engine.plain
        self._kernel = None if plan.strided is None else kernel_of(plan.strided, engine.outputs)
        if self._kernel is None:
            self._plan = replace(plan, strided=None)
        self.times = [0, 0, 0]
        self._lent = Lent(engine.stream)
        self._held: dict[str, Any] = {"memory": [], "graphs": {}, "lent": self._lent}
        self._close = weakref.finalize(self, _free, gpu, engine.stream, self._held)
        self._graphs: dict[int, Callable[[], None]] = self._held["graphs"]
        self._count, self._submitted = 0, 0
        self._running = gpu.errors_of(f"running {engine.name}")
        with gpu.errors_of(f"allocating a slot of {engine.name}"):
            self._allocate(Memory(gpu, engine.stream, self._held["memory"]))
            engine.stream.synchronize()

    def _allocate(self, memory: Memory) -> None:
        specs, plan, gpu = (*self._engine.inputs, *self._engine.outputs), self._plan, self._gpu
        self._tensors = {spec.name: memory.take(_bytes(spec)) for spec in specs}
        image = next(spec for spec in self._engine.inputs if spec.name == plan.image)
        self._format = self._engine.formats.get(plan.image) or ImageFormat(image.dtype)
        self.batch, self._size = image.shape[0], plan.spec.size
        copied = memory.take if self.batch > 1 and plan.depth > 1 and not gpu.integrated else None
        self._images = [Image(gpu, self._lent, copied) for _ in range(self.batch)]
        self._done = gpu.mark() if self._engine.shared else None
        self._crops = plan.spec.letterbox == "crop"
        self._descriptions = Descriptions(memory, self.batch, self._size, self._crops)
        self._settings = memory.constant(input_of(plan.spec, self._format.scale))
        for name, values in plan.fixed:
            spec = next(spec for spec in self._engine.inputs if spec.name == name)
            memory.copy(np.ascontiguousarray(values, spec.dtype), self._tensors[name])
        self._selection = None if plan.strided is None else self._selecting(memory)
        self._whole = [] if plan.strided else self._arrays()

    def _selecting(self, memory: Memory) -> Selection:
        plan, outputs, strided = self._plan, self._engine.outputs, self._plan.strided
        assert strided is not None and self._kernel is not None
        row = outputs_of(plan, outputs, [self._tensors[s.name] for s in outputs])
        row["capacity"], row["thresholds"] = CAPACITY, memory.constant(thresholds_of(plan))
        row["priors"] = 0 if strided.priors is None else memory.constant(strided.priors)
        row["views"] = self._descriptions.views if plan.in_frame else 0
        row["nms_limit"] = NMS_LIMIT if plan.upright else 0
        selection = Selection(memory, self._kernels, self._kernel, strided, row, self.batch)
        if plan.prototypes is not None:
            spec = outputs[plan.prototypes]
            selection.prototypes = self._gpu.host(spec.shape, spec.dtype)
        return selection

    @property
    def where(self) -> str:  # type: ignore[override]
        place = f"the GPU, step by step ({self.plain})" if self.plain else "the GPU, as one CUDA graph"
        return place if self._plan.strided else f"{place}; outputs are decoded by the CPU"

    def on_device(self, array: object) -> DeviceFrame:
        if isinstance(array, DeviceFrame):
            return array
        frame = DeviceFrame.of(array)
        if not self._lent.reads(frame):
            with self._running:
                self._lent.require(frame)
        return frame

    def start(self, frames: Sequence[Frame]) -> None:
        started, count = time.perf_counter_ns(), len(frames)
        with self._running:
            self._take(frames)
            launch = self._graphs.get(count)
            if launch is None:
                launch = self._graphs[count] = self._captured(count)
            launch()
            if self._done is not None:
                self._done.record(self._engine.stream)
        self._count, self._submitted = count, time.perf_counter_ns()
        self.times[0] = self._submitted - started

    def _take(self, frames: Sequence[Frame]) -> None:
        """Hold and describe the frames; one of which several parts are seen is copied at most once."""
        images, descriptions, before = self._images, self._descriptions, None
        descriptions.place(frames)
        for i, (source, place) in enumerate(frames):
            if source is before:
                images[i].share(images[i - 1])
            else:
                more = self._crops or (i + 1 < len(frames) and frames[i + 1][0] is source)
                images[i].take(source, place, more)
            before = source
            descriptions.locate(i, images[i].base)

    def _captured(self, count: int) -> Callable[[], None]:
        """A launch of all steps as a graph; the steps themselves if they cannot be captured."""
        height, width = self._size
        grid = (-(-width // 32), -(-height // (8 * ROWS)), count)
        arguments: list[int | NDArray[Any]] = [
            self._settings,
            self._descriptions.images,
            self._descriptions.taps,
            self._tensors[self._plan.image],
        ]
        name = f"{'crop' if self._crops else 'letterbox'}_{self._format.kernel}"
        letterbox = Launch(self._kernels, name, grid, (32, 8, 1), arguments)
        steps = partial(self._steps, letterbox)
        steps()  # TensorRT's work on the first run cannot be captured
        self._engine.stream.synchronize()
        if not self.plain:
            try:
                return _Captured(Graph(self._engine.stream.handle, steps), letterbox, self._descriptions)
            except BuildError as error:
                self.plain = str(error)
                _log.warning("%s runs without a CUDA graph, which costs some time: %s", self._engine.name, self.plain)
        return steps

    def _steps(self, letterbox: Launch) -> None:
        stream, selection = self._engine.stream.handle, self._selection
        letterbox(stream)
        self._engine.enqueue(self._tensors)
        if selection is None:
            self._fetch()
            return
        selection.launch(stream)
        if selection.prototypes is not None and self._plan.prototypes is not None:
            at = self._tensors[self._engine.outputs[self._plan.prototypes].name]
            self._gpu.driver.memcpy_dtoh_async(selection.prototypes, at, self._engine.stream)

    def _fetch(self) -> None:
        for spec, array in zip(self._engine.outputs, self._whole, strict=True):
            self._gpu.driver.memcpy_dtoh_async(array, self._tensors[spec.name], self._engine.stream)

    def finish(self) -> list[FrameBoxes]:
        with self._running:
            if self._done is None:
                self._engine.stream.synchronize()
            else:
                self._done.synchronize()  # the stream may already hold another slot's batch
        self._lent.give_back()
        complete = time.perf_counter_ns()
        boxes = self._results()
        self.times[1], self.times[2] = complete - self._submitted, time.perf_counter_ns() - complete
        return boxes

    def _results(self) -> list[FrameBoxes]:
        selection, decoded = self._selection, self._plan.decoded
        if selection is None:
            return [decoded(self._whole, i) for i in range(self._count)]
        read = [selection.read(i) for i in range(self._count)]
        boxes = [each for each in read if each is not None]
        if len(boxes) < len(read):
            self._overflow()
            boxes = [decoded(self._whole, i) if each is None else each for i, each in enumerate(read)]
        return boxes

    def _overflow(self) -> None:
        if not self._whole:
            _log.info("%s: more than %d boxes: the whole outputs are copied back", self._engine.name, CAPACITY)
        with self._running:
            self._whole = self._whole or self._arrays()
            self._fetch()
            self._engine.stream.synchronize()

    def close(self) -> None:
        self._close()
        self._images = []

    def _arrays(self) -> list[NDArray[Any]]:
        return [self._gpu.host(spec.shape, spec.dtype) for spec in self._engine.outputs]


class _Captured:
    """The steps as a graph, updated with the current `descriptions` at each launch."""

    def __init__(self, graph: Graph, letterbox: Launch, descriptions: Descriptions) -> None:
        self.graph, self._letterbox = graph, letterbox  # keeps its arguments alive
        self._descriptions, self._launched = descriptions, descriptions.version
        try:
            self._update = graph.kernel_update(letterbox.params)
        except BuildError:
            graph.close()
            raise

    def __call__(self) -> None:
        version = self._descriptions.version
        if version != self._launched:
            self._update()
            self._launched = version
        self.graph.launch()


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _free(gpu: Gpu, stream: Any, held: dict[str, Any]) -> None:
    graphs = [steps.graph.close for steps in held["graphs"].values() if isinstance(steps, _Captured)]
    gpu.free_all([stream.synchronize, held["lent"].close, *graphs, *(block.free for block in held["memory"])])
    held.update(graphs={}, memory=[])
