"""Training of all weights of a changed model together, until it computes what the original does: its result.

`training.refine` is the training, which needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from edgesparse.progress import Progress


@dataclass(frozen=True)
class Refinement:
    """How all weights of a model were trained together, after each layer was fitted alone.

    `steps` of the training; `images`, of which `held_out` judge; `before` and `after`: the loss on those, `after`
    of the best weights.
    """

    steps: int
    images: int
    held_out: int
    before: float
    after: float

    @property
    def kept(self) -> bool:
        """Whether the trained weights are the result; otherwise no step lowered the loss on the images held out."""
        return self.after < self.before

    def __str__(self) -> str:
        judges = f"on images held out ({self.held_out} of {self.images})"
        if not self.kept:
            return f"trained {self.steps} steps, without a gain {judges}: weights as before"
        return f"trained {self.steps} steps: error {judges} {100 * (1 - self.after / self.before):.0f} % lower"


@dataclass(frozen=True)
class Trained:
    """`model` with trained weights and, if it is to be quantized, the learned `scales` of the quantized tensors: those
    from before where the images held out show no gain.
    """

    model: ModelProto
    scales: Mapping[str, float]
    report: Refinement


Refine = Callable[[ModelProto, ModelProto, Path | None, Progress], Trained]
"""Trains a changed model to match the original, whose channels are in the same order.

(original, changed, a file to continue from, progress) -> the result."""
