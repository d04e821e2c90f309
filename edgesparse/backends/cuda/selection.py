"""The kernel that selects boxes: its memory, its launch, and what it returns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.backends.cuda.kernels import Kernels, Launch
from edgesparse.backends.cuda.layouts import Row
from edgesparse.backends.cuda.memory import Memory
from edgesparse.backends.cuda.outputs import COUNT, KEPT, RECORD, SUMMARY
from edgesparse.backends.frames import NO_BOXES, FrameBoxes, Strided


class Selection:
    """The boxes of one batch at a time, which the kernel `name` leaves in page-locked memory.

    `row`: its structure of `outputs.py`, complete. `launch` enqueues it; `read` is for after the batch. `prototypes`:
    memory for the output of that name, if it is returned whole.
    """

    def __init__(self, memory: Memory, kernels: Kernels, name: str, strided: Strided, row: Row, batch: int) -> None:
        self._classes, self._capacity, self._in_frame = strided.classes, int(row["capacity"][0]), bool(row["views"][0])
        self.prototypes: NDArray[Any] | None = None
        host, capacity = memory.gpu.host, self._capacity
        summaries, records = host((batch,), SUMMARY), host((batch, capacity), RECORD)
        self._counts = summaries.view(np.int32).data  # of each image, its Summary
        self._rows, self._keys = records.view("f4").reshape(batch, capacity, -1), records["key"]
        details, kept = host((batch, capacity, max(1, strided.details)), "float32"), host((batch,), KEPT)
        self._details = details[..., : strided.details] if strided.details else None
        self._kept = [(each["box"], each["score"], each["label"]) for each in kept]
        self._none = NO_BOXES._replace(xyxy=np.empty((0, 4 + strided.details), np.float32))
        on_device = [memory.constant(row), memory.constant(np.zeros(batch, COUNT)), memory.take(records.nbytes)]
        arguments = [*on_device, *map(memory.mapped, (summaries, records, details, kept))]
        self.launch = Launch(kernels, name, (-(-strided.candidates // 32), batch, 1), (32, 8, 1), arguments)

    def read(self, index: int) -> FrameBoxes | None:
        """Copies of an image's boxes; None if they are more than fit."""
        counts, at = self._counts, 3 * index
        candidates, kept, dropped = counts[at], counts[at + 1], counts[at + 2]
        if kept < 0 or candidates > self._capacity:
            return self._unsuppressed(index, candidates, dropped) if candidates <= self._capacity else None
        if not candidates:
            return self._none if dropped == 0 else self._none._replace(dropped=dropped)
        boxes, score, label = self._kept[index]
        xyxy = boxes[:kept].copy()
        if self._details is not None:
            xyxy = np.concatenate([xyxy, self._details[index, :kept]], 1)
        whole = None if self.prototypes is None else self.prototypes[index]
        return FrameBoxes(xyxy, score[:kept].copy(), label[:kept].copy(), True, dropped, whole, self._in_frame)

    def _unsuppressed(self, index: int, candidates: int, dropped: int) -> FrameBoxes:
        """Boxes without NMS, in the order of the CPU's path."""
        order = self._keys[index, :candidates].argsort()
        rows, class_id = self._rows[index, order], (self._keys[index, order] % self._classes).astype(np.int64)
        xyxy = rows[:, :4]
        if self._details is not None:
            xyxy = np.concatenate([xyxy, self._details[index, order]], 1)
        whole = None if self.prototypes is None else self.prototypes[index]
        return FrameBoxes(xyxy, rows[:, 4], class_id, False, dropped, whole)
