"""What a detector says about one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """`xyxy` float32 [n, 4], pixels of the frame; `confidence` float32 [n], 0..1, falling; `class_id` int64 [n]."""

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def none(cls) -> Detections:
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
