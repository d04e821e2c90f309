"""The frame path of runners that have none: OpenCV before the engine, NumPy after it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.base import Runner
from edgesparse.backends.frames import Frame, FrameBoxes, FramePlan, Place, Slot
from edgesparse.runtime.preprocess import Preprocessor

TO_BGR: dict[str, int] = {
    "rgb": cv2.COLOR_RGB2BGR,
    "nv12": cv2.COLOR_YUV2BGR_NV12,
    "yuyv": cv2.COLOR_YUV2BGR_YUYV,
}


class CpuSlot(Slot):
    """Does everything but decoding in `start`: nothing overlaps."""

    where = "the CPU"

    def __init__(self, runner: Runner, plan: FramePlan) -> None:
        buffers = runner.allocate()
        runner.bind(buffers)
        for name, values in plan.fixed:
            buffers[name][...] = values
        self._runner, self._plan = runner, plan
        self._preprocess = Preprocessor(plan.spec, buffers[plan.image])
        self._outputs = [buffers[output.name] for output in runner.outputs]
        self._converted: dict[int, NDArray[np.uint8]] = {}
        self._last: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        self._count, self.times = 0, [0, 0, 0]

    def start(self, frames: Sequence[Frame]) -> None:
        started = time.perf_counter_ns()
        self._last = None
        for slot, frame in enumerate(frames):
            self._preprocess(self._bgr(frame, slot), slot)
        prepared = time.perf_counter_ns()
        self._runner.infer()
        self.times[0], self.times[1] = prepared - started, time.perf_counter_ns() - prepared
        self._count = len(frames)

    def _bgr(self, frame: Frame, slot: int) -> NDArray[np.uint8]:
        """Return what the model sees of a frame, of which parts may follow each other, as BGR: a view of it, or of a
        buffer that is reused while the size stays the same."""
        image, place = frame
        assert isinstance(image, np.ndarray)  # others are refused by `on_device`
        if place.part is None and place.pixels == "bgr":
            return image
        top, left, height, width = place.seen
        if place.pixels == "bgr":
            return image[top : top + height, left : left + width]
        if self._last is None or self._last[0] is not image:
            self._last = image, self._convert(image, place, slot)
        return self._last[1][top : top + height, left : left + width]

    def _convert(self, image: NDArray[np.uint8], place: Place, slot: int) -> NDArray[np.uint8]:
        shape, out = (place.frame_height, place.frame_width, 3), self._converted.get(slot)
        if out is None or out.shape != shape:
            out = self._converted[slot] = np.empty(shape, np.uint8)
        cv2.cvtColor(image, TO_BGR[place.pixels], dst=out)
        return out

    def finish(self) -> list[FrameBoxes]:
        started = time.perf_counter_ns()
        boxes = [self._plan.decoded(self._outputs, image) for image in range(self._count)]
        self.times[2] = time.perf_counter_ns() - started
        return boxes

    def close(self) -> None:
        self._count = 0
