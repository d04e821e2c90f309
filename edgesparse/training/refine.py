"""Trains a pruned or INT8 model until it computes what the original does, without labels.

Fitting layer by layer (`sparsity.reconstruct`, `int8.bias_correction`) leaves errors that only the layers together can
remove. Here all weights and biases move at once, by Adam, to lower the difference of the maps, weighted by what the
original detects, and of features inside (Hinton et al., "Distilling the Knowledge", 2015). At 2:4, masks move too at
first (`moving`); in INT8, weights and activations are rounded meanwhile, so that weights learn which way to round, and
the ranges of activations are learned (`quantizer`). Images held out decide: where the error on them does not fall, the
training goes back to the best weights and continues more slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from edgesparse.errors import CalibrationError
from edgesparse.progress import Progress
from edgesparse.refinement import Refinement, Trained
from edgesparse.training.lessons import Lesson
from edgesparse.training.moving import MEASURED, MOVING, MovingMasks, input_sizes
from edgesparse.training.network import Network
from edgesparse.training.steps import INT8_RATE, LAYOUTS, Steps, save_checkpoint, schedule, step_sizes

HOLD_OUT = 10
"""Each HOLD_OUT-th image is held out; of fewer images the first."""
CHECKS = 8
"""How often the images held out are looked at, evenly over the steps."""
SLOWER = 0.3
"""Factor of the learning rate after a check without a better result: how fast is too fast depends on the network."""
SLOWEST = 0.01
"""The training ends below this factor."""
WARM = 20
"""Steps over which the learning rate rises."""
STAYS = 0.99
"""How much of the averaged weights stays per step; less in the first steps."""


@dataclass(frozen=True)
class Refiner:
    """How a model is trained: `pixels`, uint8 [N, 3, H, W], two or more images, and in `lesson` what is
    compared, for how many `steps`, with which `batch`, `rate` and `seed`.

    Raises CalibrationError for too few images.
    """

    pixels: NDArray[np.uint8]
    lesson: Lesson

    def __post_init__(self) -> None:
        if len(self.pixels) < 2:
            raise CalibrationError(f"found {len(self.pixels)} image, needed two or more: one judges, the others train")

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], values: Mapping[str, Any]) -> Refiner:
        """A refiner with the lesson of these values; see `Lesson`."""
        return cls(pixels, Lesson.of(values))

    def rounding(self, values: Mapping[str, Any]) -> Refiner:
        """Return the refiner of a model that is rounded to INT8 where these values of a Lesson say."""
        return replace(self, lesson=replace(self.lesson, **{"rate": INT8_RATE, **values}))

    def check(self, model: ModelProto) -> None:
        """Raise ModelError, naming the node, if PyTorch cannot compute what is compared."""
        self.lesson.network(model)

    def __call__(
        self, original: ModelProto, changed: ModelProto, checkpoint: Path | None, progress: Progress
    ) -> Trained:
        """Return `changed`, which is 2:4 or, by the lesson, to be rounded to INT8, trained to match `original`.

        `original` has its channels in the order of `changed`. `checkpoint`: a file from which an interrupted call
        continues to the same result. Raises ModelError.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        teacher, student = self.lesson.network(original).to(device), self.lesson.student(changed).to(device)
        for network in (teacher, student):
            network.to(memory_format=LAYOUTS[device.type])  # type: ignore[call-overload]
        training = _Training(self, teacher.eval().requires_grad_(False), student, checkpoint)
        report = training.run(progress)
        if not report.kept:
            return Trained(changed, self.lesson.scales, report)
        model = ModelProto()
        model.CopyFrom(changed)
        training.best.write_to(model)
        return Trained(model, training.best.scales(), report)


@dataclass
class _State:
    """Steps done; the error on images held out before, at best and per check; the factor of the learning rate."""

    step: int = 0
    before: float = 0.0
    least: float = 0.0
    history: list[float] = field(default_factory=list)
    pace: float = 1.0


class _Training:
    """One training: `best` are the averaged weights with the least error on the images held out."""

    def __init__(self, refiner: Refiner, teacher: Network, student: Network, checkpoint: Path | None) -> None:
        self.lesson, self.checkpoint = refiner.lesson, checkpoint
        self.teacher, self.student = teacher, student
        self.device = next(student.parameters()).device
        pixels = torch.from_numpy(refiner.pixels).to(self.device)
        apart = torch.arange(len(pixels)) % HOLD_OUT == 0
        self.held_out, self.images = pixels[apart], pixels[~apart]
        inputs = self._input_sizes()
        self.sizes = step_sizes(student, inputs)
        self.masks = None if self.lesson.readers else MovingMasks(student, teacher, inputs)
        self.average = deepcopy(student).requires_grad_(False)
        self.best = deepcopy(self.average)
        self.steps = Steps(student, self.average, self._loss, self.sizes, self.masks, STAYS)
        self.state = _State()

    def run(self, progress: Progress) -> Refinement:
        state, steps = self.state, self.lesson.steps
        every = max(1, -(-steps // CHECKS))
        if not self._resumed():
            state.before = state.least = self._error()
        while state.step < steps and state.pace >= SLOWEST:
            progress("training", state.step, steps)
            finite = self._step()
            state.step += 1
            if not finite or state.step % every == 0 or state.step == steps:
                self._check()
        progress("training", steps, steps)
        count = len(self.images) + len(self.held_out)
        return Refinement(state.step, count, len(self.held_out), state.before, state.least)

    def _step(self) -> bool:
        """Move the weights once; return False if the loss is not finite, see Steps."""
        lesson, step = self.lesson, self.state.step
        rate = lesson.rate * self.state.pace * schedule(step, WARM, step / lesson.steps)
        return self.steps.take(lesson.draw(self.images, step), step, rate, step < MOVING * lesson.steps)

    def _loss(self, network: Network, pixels: Tensor) -> Tensor:
        return self.lesson.loss(network, self.teacher, self._input(pixels), self.lesson.features)

    def _input(self, pixels: Tensor) -> Tensor:
        return self.lesson.input(pixels).contiguous(memory_format=LAYOUTS[pixels.device.type])

    def _input_sizes(self) -> dict[str, Tensor]:
        some = self.images[:: -(-len(self.images) // MEASURED)]
        parts = some.split(self.lesson.batch)  # type: ignore[no-untyped-call]
        return input_sizes(self.teacher, [self._input(part) for part in parts])

    def _error(self) -> float:
        """The loss of the averaged weights on the images held out."""
        with torch.no_grad():
            parts = self.held_out.split(self.lesson.batch)  # type: ignore[no-untyped-call]
            losses = [self._loss(self.average, part).item() * len(part) for part in parts]
        return float(sum(losses) / len(self.held_out))

    def _check(self) -> None:
        state, error = self.state, self._error()
        state.history.append(error)
        if error < state.least:
            state.least = error
            self.best.load_state_dict(self.average.state_dict())
        else:
            state.pace *= SLOWER
            for network in (self.student, self.average):
                network.load_state_dict(self.best.state_dict())
            self.steps.forget()
        if self.checkpoint is None:
            return
        values = {name: part.state_dict() for name, part in self._parts().items()}
        save_checkpoint(self.checkpoint, {"lesson": self.lesson.key, "state": asdict(state), **values})

    def _resumed(self) -> bool:
        """Continue from the checkpoint, if it is of this training."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return False
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if saved["lesson"] != self.lesson.key:
            return False
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        for name, value in saved["state"].items():
            setattr(self.state, name, value)
        return True

    def _parts(self) -> dict[str, Any]:
        return {"student": self.student, "average": self.average, "best": self.best, "optimizer": self.steps}
