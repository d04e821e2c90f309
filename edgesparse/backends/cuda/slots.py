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
from edgesparse.backends.cuda.formats import ImageFormat
from edgesparse.backends.cuda.gpu import Gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.cuda.images import Image
from edgesparse.backends.cuda.kernels import Kernels, Launch
from edgesparse.backends.cuda.layouts import IMAGE, IMAGES, TAP, image_of, input_of
from edgesparse.backends.cuda.lent import Lent
from edgesparse.backends.cuda.outputs import COUNT, RECORD, SUMMARY, kernel_of, outputs_of, thresholds_of
from edgesparse.backends.device_frame import DeviceFrame
from edgesparse.backends.frames import NO_BOXES, Frame, FrameBoxes, FramePlan, Place, Slot
from edgesparse.errors import BuildError

CAPACITY = 1024
"""Boxes per image that fit; if there are more, the whole outputs are copied back."""
NMS_LIMIT = 256
"""Up to this many boxes per image the GPU runs NMS: the number of threads in a block (suppress.cuh)."""
ROWS = 2
"""Rows of pixels per thread of the letterbox, as in frames.cu."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What a slot runs. `enqueue` puts it on the stream with its tensors at the given addresses on the GPU.

    `inputs`, `outputs`: as they are in memory. `plain`: why it cannot be captured in a graph, if that is known.
    `formats`: how it takes an image that is not N x 3 x H x W of the values themselves, by input.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stream: Any
    enqueue: Callable[[Mapping[str, int]], None]
    plain: str = ""
    formats: Mapping[str, ImageFormat] = field(default_factory=dict)


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
        self._count, self._submitted = 0, 0
        self._running = gpu.errors_of(f"running {engine.name}")
        with gpu.errors_of(f"allocating a slot of {engine.name}"):
            self._allocate()
            engine.stream.synchronize()

    def _allocate(self) -> None:
        specs, plan = (*self._engine.inputs, *self._engine.outputs), self._plan
        self._tensors = {spec.name: self._memory(_bytes(spec)) for spec in specs}
        image = next(spec for spec in self._engine.inputs if spec.name == plan.image)
        self._format = self._engine.formats.get(plan.image) or ImageFormat(image.dtype)
        self.batch, self._size = image.shape[0], plan.spec.size
        self._compact: Launch | None = None
        copied = self._memory if self.batch > 1 and plan.depth > 1 and not self._gpu.integrated else None
        self._done, self._images = self._gpu.event(), [Image(self._gpu, self._lent, copied) for _ in range(self.batch)]
        self._places: list[Place | None] = [None] * self.batch
        self._descriptions = np.zeros(IMAGES, IMAGE)
        self._addresses = self._descriptions["data"]
        self._crops = plan.spec.letterbox == "crop"
        self._taps = self._gpu.host((self.batch * sum(self._size),), TAP)
        self._device_taps = self._memory(self._taps.nbytes)
        self._settings = self._constant(input_of(plan.spec, self._format.scale))
        for name, values in plan.fixed:
            spec = next(spec for spec in self._engine.inputs if spec.name == name)
            whole = np.ascontiguousarray(values, spec.dtype)
            self._gpu.driver.memcpy_htod_async(self._tensors[name], whole, self._engine.stream)
        self._whole = [] if plan.strided else self._arrays()
        self._prototypes: NDArray[Any] | None = None
        if plan.strided is not None and plan.prototypes is not None:
            spec = self._engine.outputs[plan.prototypes]
            self._prototypes = self._gpu.host(spec.shape, spec.dtype)
        if plan.strided is not None:
            self._allocate_boxes()

    def _allocate_boxes(self) -> None:
        plan, outputs, strided = self._plan, self._engine.outputs, self._plan.strided
        assert strided is not None and self._kernel is not None
        row = outputs_of(plan, outputs, [self._tensors[s.name] for s in outputs])
        row["capacity"], row["thresholds"] = CAPACITY, self._constant(thresholds_of(plan))
        row["priors"] = 0 if strided.priors is None else self._constant(strided.priors)
        row["nms_limit"] = NMS_LIMIT if plan.upright else 0
        records = self._gpu.host((self.batch, CAPACITY), RECORD)
        self._summaries = self._gpu.host((self.batch,), SUMMARY)
        self._rows, self._keys = records.view("f4").reshape(self.batch, CAPACITY, -1), records["key"]
        details = self._gpu.host((self.batch, CAPACITY, max(1, strided.details)), "float32")
        self._details = details[..., : strided.details]
        self._none = NO_BOXES._replace(xyxy=np.empty((0, 4 + strided.details), np.float32))
        on_device = [self._constant(row), self._constant(np.zeros(self.batch, COUNT)), self._memory(records.nbytes)]
        arguments = [*on_device, *map(self._mapped, (self._summaries, records, details))]
        grid = (-(-strided.candidates // 32), self.batch, 1)
        self._compact = Launch(self._kernels, self._kernel, grid, (32, 8, 1), arguments)

    @property
    def where(self) -> str:  # type: ignore[override]
        place = f"the GPU, step by step ({self.plain})" if self.plain else "the GPU, as one CUDA graph"
        return place if self._plan.strided else f"{place}; outputs are decoded by the CPU"

    def on_device(self, array: object) -> DeviceFrame:
        with self._running:
            return self._lent.described(array)

    def start(self, frames: Sequence[Frame]) -> None:
        started = time.perf_counter_ns()
        with self._running:
            self._take(frames)
            self._count = len(frames)
            self._describe([place for _, place in frames])
            self._launch()
            self._done.record(self._engine.stream)
        self._submitted = time.perf_counter_ns()
        self.times[0] = self._submitted - started

    def _take(self, frames: Sequence[Frame]) -> None:
        """Hold the frames; one of which several parts are seen is copied at most once."""
        for i, (source, place) in enumerate(frames):
            same = i > 0 and frames[i - 1][0] is source
            more = self._crops or (i + 1 < len(frames) and frames[i + 1][0] is source)
            self._images[i].take((source, place), self._images[i - 1] if same else None, more)

    def _describe(self, places: Sequence[Place]) -> None:
        """Describe the frames to the letterbox: addresses, and if they changed, sizes and rectangles."""
        if self._places[: len(places)] != list(places):
            end = 0
            for i, place in enumerate(places):
                end = image_of(place, self._descriptions[i], end, None if self._crops else self._taps)
            self._places = [*places, *[None] * (self.batch - len(places))]
            if end:
                self._gpu.driver.memcpy_htod_async(self._device_taps, self._taps[:end], self._engine.stream)
        self._addresses[: len(places)] = [image.data for image in self._images[: len(places)]]

    def _launch(self) -> None:
        graphs = self._held["graphs"]
        if self._count not in graphs:
            graphs[self._count] = self._captured()
        graphs[self._count]()

    def _captured(self) -> Callable[[], None]:
        """A launch of all steps as a graph; the steps themselves if they cannot be captured."""
        height, width = self._size
        grid = (-(-width // 32), -(-height // (8 * ROWS)), self._count)
        arguments: list[int | NDArray[Any]] = [
            self._settings,
            self._descriptions,
            self._device_taps,
            self._tensors[self._plan.image],
        ]
        name = f"{'crop' if self._crops else 'letterbox'}_{self._format.kernel}"
        letterbox = Launch(self._kernels, name, grid, (32, 8, 1), arguments)
        steps = partial(self._steps, letterbox)
        steps()  # TensorRT's work on the first run cannot be captured
        self._engine.stream.synchronize()
        if not self.plain:
            try:
                return _Captured(Graph(self._engine.stream.handle, steps), letterbox, self._descriptions[: self._count])
            except BuildError as error:
                self.plain = str(error)
                _log.warning("%s runs without a CUDA graph, which costs some time: %s", self._engine.name, self.plain)
        return steps

    def _steps(self, letterbox: Launch) -> None:
        stream = self._engine.stream.handle
        letterbox(stream)
        self._engine.enqueue(self._tensors)
        if self._compact:
            self._compact(stream)
            if self._prototypes is not None and self._plan.prototypes is not None:
                at = self._tensors[self._engine.outputs[self._plan.prototypes].name]
                self._gpu.driver.memcpy_dtoh_async(self._prototypes, at, self._engine.stream)
        else:
            self._fetch()

    def _fetch(self) -> None:
        for spec, array in zip(self._engine.outputs, self._whole, strict=True):
            self._gpu.driver.memcpy_dtoh_async(array, self._tensors[spec.name], self._engine.stream)

    def finish(self) -> list[FrameBoxes]:
        with self._running:
            self._done.synchronize()  # not the stream, which may already hold the next batch
        self._lent.give_back()
        complete = time.perf_counter_ns()
        summaries = self._summaries[: self._count].tolist() if self._compact else [(CAPACITY + 1, -1, 0)] * self._count
        if self._compact and any(candidates > CAPACITY for candidates, _, _ in summaries):
            self._overflow()
        boxes = [self._boxes(index, *counts) for index, counts in enumerate(summaries)]
        self.times[1], self.times[2] = complete - self._submitted, time.perf_counter_ns() - complete
        return boxes

    def _overflow(self) -> None:
        if not self._whole:
            _log.info("%s: more than %d boxes: the whole outputs are copied back", self._engine.name, CAPACITY)
        with self._running:
            self._whole = self._whole or self._arrays()
            self._fetch()
            self._engine.stream.synchronize()

    def _boxes(self, index: int, candidates: int, kept: int, dropped: int) -> FrameBoxes:
        """`kept`: how many boxes NMS on the GPU kept; -1 if it did not run."""
        if candidates == 0:
            return self._none if dropped == 0 else self._none._replace(dropped=dropped)
        if candidates > CAPACITY:
            return self._plan.decoded(self._whole, index)
        assert self._plan.strided is not None
        keys, final = self._keys[index, : candidates if kept < 0 else kept], kept >= 0
        # Otherwise in the order of the CPU's path.
        order = slice(len(keys)) if final else keys.argsort()
        rows, class_id = self._rows[index, order].copy(), (keys[order] % self._plan.strided.classes).astype(np.int64)
        boxes = rows[:, :4]
        if self._plan.strided.details:
            boxes = np.concatenate([boxes, self._details[index, order]], 1)
        whole = None if self._prototypes is None else self._prototypes[index]
        return FrameBoxes(boxes, rows[:, 4], class_id, final, dropped, whole)

    def close(self) -> None:
        self._close()
        self._images = []

    def _memory(self, size: int) -> int:
        block = self._gpu.memory(size)
        self._held["memory"].append(block)
        return int(block)

    def _constant(self, values: NDArray[Any]) -> int:
        """Copy values that never change to the GPU; returns their address."""
        at = self._memory(values.nbytes)
        self._gpu.driver.memcpy_htod_async(at, values, self._engine.stream)
        return at

    def _arrays(self) -> list[NDArray[Any]]:
        return [self._gpu.host(spec.shape, spec.dtype) for spec in self._engine.outputs]

    def _mapped(self, array: NDArray[Any]) -> int:
        pinned = self._gpu.pinned(array)
        assert pinned is not None
        return pinned.address


class _Captured:
    """The steps as a graph, updated with the current `descriptions` at each launch."""

    def __init__(self, graph: Graph, letterbox: Launch, descriptions: NDArray[Any]) -> None:
        self.graph, self._letterbox = graph, letterbox  # keeps its arguments alive
        self._descriptions, self._launched = descriptions, descriptions.tobytes()
        try:
            self._update = graph.kernel_update(letterbox.params)
        except BuildError:
            graph.close()
            raise

    def __call__(self) -> None:
        if (current := self._descriptions.tobytes()) != self._launched:
            self._update()
            self._launched = current
        self.graph.launch()


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _free(gpu: Gpu, stream: Any, held: dict[str, Any]) -> None:
    graphs = [steps.graph.close for steps in held["graphs"].values() if isinstance(steps, _Captured)]
    gpu.free_all([stream.synchronize, held["lent"].close, *graphs, *(block.free for block in held["memory"])])
    held.update(graphs={}, memory=[])
