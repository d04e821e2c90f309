"""Baselines of the frame path: the engine alone, the copy alone, and the usual script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_setup import HD, Net, image
from edgesparse.backends import backend
from edgesparse.backends.cuda.gpu import gpu
from edgesparse.backends.cuda.graph import Graph
from edgesparse.backends.tensorrt.inspect import read_plan


class Bare:
    """The engine alone as a CUDA graph (one launch, one wait), and the copy of one frame from page-locked memory."""

    def __init__(self, path: Path) -> None:
        self._card, self._runner = gpu(), backend("tensorrt").load(path)
        stream = self._runner._held["stream"]  # type: ignore[attr-defined]
        with self._card:
            graph = Graph(stream.handle, self._runner._engine)  # type: ignore[attr-defined]
            self._frame, self._near = self._card.host(HD, "uint8"), self._card.memory(int(np.prod(HD)))
        self._frame[...] = image(5)
        self._stream, self._graph = stream, graph

    def run(self) -> None:
        with self._card:
            self._graph.launch()
            self._stream.synchronize()

    def latency(self) -> float:
        return float(np.median([self._runner.latency() for _ in range(200)]))

    def copy(self, rows: int = HD[0]) -> None:
        """Copy the first `rows` rows of a frame."""
        with self._card:
            self._card.driver.memcpy_htod_async(self._near, self._frame[:rows], self._stream)
            self._stream.synchronize()


class Common:
    """The usual script: OpenCV letterbox, pageable copies, execute, the whole output back, NumPy decode, OpenCV NMS."""

    def __init__(self, of: Net) -> None:
        import tensorrt as trt

        self._card, self._conf, self._size = gpu(), of.conf, of.spec.input.size
        with self._card:
            self._plan = read_plan(trt, of.path)
            engine = self._plan.engine
            self._context = engine.create_execution_context()
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
            self._memory = {name: self._card.memory(4 * int(np.prod(shape))) for name, shape in shapes.items()}
            for name, block in self._memory.items():
                self._context.set_tensor_address(name, int(block))
            self._stream = self._card.stream()
        self._in, self._out = names
        self._shape = shapes[self._out]

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = self._size
        ratio = min(height / frame.shape[0], width / frame.shape[1])
        new = (round(frame.shape[1] * ratio), round(frame.shape[0] * ratio))
        top, left = (height - new[1]) // 2, (width - new[0]) // 2
        resized = cv2.resize(frame, new, interpolation=cv2.INTER_LINEAR)
        below, right = height - new[1] - top, width - new[0] - left
        canvas = cv2.copyMakeBorder(resized, top, below, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
        blob = np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)[None], np.float32) / 255
        raw = np.empty(self._shape, np.float32)
        with self._card:
            self._card.driver.memcpy_htod(self._memory[self._in], np.ascontiguousarray(blob, np.float32))
            self._context.execute_async_v3(self._stream.handle)
            self._stream.synchronize()
            self._card.driver.memcpy_dtoh(raw, self._memory[self._out])
        rows = raw[0].T
        scores = rows[:, 4:]
        labels = scores.argmax(1)
        best = scores.max(1)
        keep = best >= self._conf
        boxes, best, labels = rows[keep, :4], best[keep], labels[keep]
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1)
        # Any: OpenCV's type hints allow only lists, but it accepts arrays too.
        moved: Any = corners + np.pad(labels[:, None] * 4096.0, ((0, 0), (0, 3)))
        kept = np.asarray(cv2.dnn.NMSBoxes(moved, best, self._conf, 0.45), np.intp).ravel()
        corners = corners[kept]
        corners[:, :2] -= (left, top)
        return np.concatenate([corners / ratio, best[kept, None], labels[kept, None]], 1)
