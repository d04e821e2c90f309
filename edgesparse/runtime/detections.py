"""What a detector says about one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """`xyxy` float32 [n, 4], pixels of the frame; `confidence` float32 [n], 0..1, falling; `class_id` int64 [n].

    `zones`, where a camera has some: the names of those that each box is in. `track_id` int64 [n], where objects are
    tracked: the same from frame to frame of a camera, -1 while it is not sure that there is one."""

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    zones: tuple[tuple[str, ...], ...] | None = None
    track_id: NDArray[np.int64] | None = None

    def __getitem__(self, keep: NDArray[np.bool_]) -> Detections:
        """Those where `keep` bool [n] is true."""
        return Detections(
            self.xyxy[keep],
            self.confidence[keep],
            self.class_id[keep],
            None if self.zones is None else tuple(names for names, kept in zip(self.zones, keep, strict=True) if kept),
            None if self.track_id is None else self.track_id[keep],
        )

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def none(cls) -> Detections:
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
