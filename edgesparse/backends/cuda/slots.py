"""A batch's way over the GPU, as one CUDA graph: letterbox of frames where they lie, engine, choice of boxes."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import TensorSpec
from edgesparse.backends.cuda.gpu import Gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.cuda.images import Image
from edgesparse.backends.cuda.kernels import Kernels, Launch
from edgesparse.backends.cuda.layouts import (
    COUNT,
    IMAGE,
    IMAGES,
    RECORD,
    TAP,
    TOLD,
    image_of,
    input_of,
    outputs_of,
)
from edgesparse.backends.frames import NOTHING, Found, Frame, FramePlan, Place, Slot
from edgesparse.errors import BuildError

CAPACITY = 1024
"""Candidates an image that have room; where there are more, the whole outputs come back."""
SUPPRESSED = 256
"""Candidates an image up to which the GPU does NMS, as many as threads in a block (suppress.cuh)."""
ROWS = 2
"""Rows of pixels a thread of the letterbox, as in frames.cu."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What a slot runs: enqueues itself on a stream, with its tensors at these addresses on the GPU. `plain`: why it
    cannot be captured in a graph, where that is known."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stream: Any
    enqueue: Callable[[Mapping[str, int]], None]
    plain: str = ""


class CudaSlot(Slot):
    """`plain`: why there is no graph, where capture is not possible; the same is enqueued step by step then.

    The letterbox reads frames where they lie in page-locked memory, and so no more of them than it needs; others are
    copied into such memory of the slot's own. Where they lie and what they are is the letterbox's argument, which the
    graph takes anew: one is captured for each number of frames. Raises BuildError, MemoryBudgetExceeded.
    """

    def __init__(self, card: Gpu, kernels: Kernels, engine: Engine, plan: FramePlan) -> None:
        self._gpu, self._kernels, self._engine, self._plan, self.plain = card, kernels, engine, plan, engine.plain
        self.times = np.zeros(3, np.int64)
        self._held: dict[str, Any] = {"memory": [], "graphs": {}}
        self._close = weakref.finalize(self, _free, card, engine.stream, self._held)
        self._count, self._submitted = 0, 0
        self._running = card.doing(f"running {engine.name}")
        with card.doing(f"making a slot of {engine.name}"):
            self._make()
            engine.stream.synchronize()

    def _make(self) -> None:
        specs, plan = (*self._engine.inputs, *self._engine.outputs), self._plan
        self._tensors = {spec.name: self._memory(_bytes(spec)) for spec in specs}
        image = next(spec for spec in self._engine.inputs if spec.name == plan.image)
        self.batch, self._size, self._dtype = image.shape[0], plan.spec.size, image.dtype
        self._compact: Launch | None = None
        self._done, self._images = self._gpu.event(), [Image(self._gpu) for _ in range(self.batch)]
        self._places: list[Place | None] = [None] * self.batch
        self._descriptions = np.zeros(IMAGES, IMAGE)
        self._lie = self._descriptions["data"]
        self._taps = self._gpu.host((self.batch * sum(self._size),), TAP)
        self._taps_near = self._memory(self._taps.nbytes)
        self._settings = self._settled(input_of(plan.spec))
        for name, values in plan.fixed:
            spec = next(spec for spec in self._engine.inputs if spec.name == name)
            whole = np.ascontiguousarray(values, spec.dtype)
            self._gpu.driver.memcpy_htod_async(self._tensors[name], whole, self._engine.stream)
        self._whole = [] if plan.strided else self._arrays()
        if plan.strided is not None:
            self._make_compact()

    def _make_compact(self) -> None:
        plan, outputs, strided = self._plan, self._engine.outputs, self._plan.strided
        assert strided is not None
        row = outputs_of(plan, outputs, [self._tensors[s.name] for s in outputs])
        row["capacity"], row["most"], row["enough"] = CAPACITY, SUPPRESSED, self._settled(plan.enough)
        records, self._told = self._gpu.host((self.batch, CAPACITY), RECORD), self._gpu.host((self.batch,), TOLD)
        self._rows, self._keys = records.view("f4").reshape(self.batch, CAPACITY, -1), records["key"]
        near = [self._settled(row), self._settled(np.zeros(self.batch, COUNT)), self._memory(records.nbytes)]
        given = [*near, self._mapped(self._told), self._mapped(records)]
        name, grid = f"compact_{outputs[strided.score_output].dtype}", (-(-strided.candidates // 32), self.batch, 1)
        self._compact = Launch(self._kernels, name, grid, (32, 8, 1), given)

    @property
    def where(self) -> str:  # type: ignore[override]
        return f"the GPU, step by step ({self.plain})" if self.plain else "the GPU, as one CUDA graph"

    def start(self, frames: Sequence[Frame]) -> None:
        begun = time.perf_counter_ns()
        with self._running:
            for image, frame in zip(self._images, frames, strict=False):
                image.take(frame)
            self._count = len(frames)
            self._describe([place for _, place in frames])
            self._launch()
            self._done.record(self._engine.stream)
        self._submitted = time.perf_counter_ns()
        self.times[0] = self._submitted - begun

    def _describe(self, places: Sequence[Place]) -> None:
        """Where frames lie; sizes and rectangles, where they are others than the last batch's."""
        if self._places[: len(places)] != list(places):
            end = 0
            for i, place in enumerate(places):
                end = image_of(place, self._descriptions[i], end, self._taps)
            self._places = [*places, *[None] * (self.batch - len(places))]
            self._gpu.driver.memcpy_htod_async(self._taps_near, self._taps[:end], self._engine.stream)
        self._lie[: len(places)] = [image.data for image in self._images[: len(places)]]

    def _launch(self) -> None:
        graphs = self._held["graphs"]
        if self._count not in graphs:
            graphs[self._count] = self._captured()
        graphs[self._count]()

    def _captured(self) -> Callable[[], None]:
        """A launch of all steps; the steps themselves where they cannot be captured."""
        height, width = self._size
        grid = (-(-width // 32), -(-height // (8 * ROWS)), self._count)
        given: list[int | NDArray[Any]] = [
            self._settings,
            self._descriptions,
            self._taps_near,
            self._tensors[self._plan.image],
        ]
        letterbox = Launch(self._kernels, f"letterbox_{self._dtype}", grid, (32, 8, 1), given)
        steps = partial(self._steps, letterbox)
        steps()  # what TensorRT does only the first time can't be captured
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
        else:
            self._fetch()

    def _fetch(self) -> None:
        for spec, array in zip(self._engine.outputs, self._whole, strict=True):
            self._gpu.driver.memcpy_dtoh_async(array, self._tensors[spec.name], self._engine.stream)

    def finish(self) -> list[Found]:
        with self._running:
            self._done.synchronize()  # not the stream, on which the next batch may be already
        there = time.perf_counter_ns()
        told = self._told[: self._count].tolist() if self._compact else [(CAPACITY + 1, -1)] * self._count
        if self._compact and any(count > CAPACITY for count, _ in told):
            self._overflow()
        found = [self._found(index, *counts) for index, counts in enumerate(told)]
        self.times[1], self.times[2] = there - self._submitted, time.perf_counter_ns() - there
        return found

    def _overflow(self) -> None:
        if not self._whole:
            _log.info("%s: more than %d candidates: its whole outputs come back", self._engine.name, CAPACITY)
        with self._running:
            self._whole = self._whole or self._arrays()
            self._fetch()
            self._engine.stream.synchronize()

    def _found(self, index: int, count: int, kept: int) -> Found:
        """`kept`: how many the GPU kept, of `count`; -1 where it suppressed none."""
        if count == 0:
            return NOTHING
        if count > CAPACITY:
            return Found(*self._plan.decode(self._whole, index))
        assert self._plan.strided is not None
        keys, final = self._keys[index, : count if kept < 0 else kept], kept >= 0
        rows = self._rows[index, : len(keys)]
        if final:
            rows, keys = rows.copy(), keys.astype(np.int64)
        else:
            order = keys.argsort()  # as the CPU's way has them
            rows, keys = rows[order], keys[order].astype(np.int64)
        return Found(rows[:, :4], rows[:, 4], keys % self._plan.strided.classes, final)

    def close(self) -> None:
        self._close()
        self._images = []

    def _memory(self, size: int) -> int:
        block = self._gpu.memory(size)
        self._held["memory"].append(block)
        return int(block)

    def _settled(self, values: NDArray[Any]) -> int:
        """Values that never change, on the GPU."""
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
    """The steps as a graph, which takes `descriptions` as they are at each launch."""

    def __init__(self, graph: Graph, letterbox: Launch, descriptions: NDArray[Any]) -> None:
        self.graph, self._letterbox = graph, letterbox  # whose arguments are read again
        self._descriptions, self._taken = descriptions, descriptions.tobytes()
        try:
            self._renew = graph.kernel(letterbox.params)
        except BuildError:
            graph.close()
            raise

    def __call__(self) -> None:
        if (now := self._descriptions.tobytes()) != self._taken:
            self._renew()
            self._taken = now
        self.graph.launch()


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _free(card: Gpu, stream: Any, held: dict[str, Any]) -> None:
    graphs = [one.graph.close for one in held["graphs"].values() if isinstance(one, _Captured)]
    card.free_all([stream.synchronize, *graphs, *(block.free for block in held["memory"])])
    held.update(graphs={}, memory=[])
