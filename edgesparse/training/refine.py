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
from math import cos, isfinite, pi
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
from edgesparse.training.augment import mixed
from edgesparse.training.distill import save_checkpoint
from edgesparse.training.lessons import Lesson
from edgesparse.training.moving import MovingMasks, input_sizes
from edgesparse.training.network import Network

TRAINING = {"batch": 4, "rate": 5e-4, "feature_weight": 4.0}
"""Of a Lesson on a processor: images per step, for 2 GB of memory, Adam's learning rate, relative to the weights, and
how much the features count."""
GPU_TRAINING = {**TRAINING, "batch": 16, "strong": 8, "rate": 1e-3}
"""On a GPU a step of 16 images takes about as long. Of many images some may be changed strongly; with few per step and
few steps, that raises the error."""
INT8_RATE = 1.5e-4
"""The learning rate where values are rounded: larger steps go astray before the first check."""
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
LARGEST = 5.0
"""The largest norm of the gradient."""
MOVING = 0.5
"""The share of the steps during which masks move."""
EVERY = 10
"""Steps between two choices of the masks."""
MEASURED = 16
"""The most images on which the sizes of the layers' inputs are measured."""
STAYS = 0.99
"""How much of the averaged weights stays per step; less in the first steps."""


def settings() -> dict[str, Any]:
    """Return the values of a Lesson that suit this machine."""
    return GPU_TRAINING if torch.cuda.is_available() else TRAINING


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
            # a step then takes a fifth less time on a processor
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        self.sizes = student.magnitudes()
        for key, size in inputs.items():
            self.sizes[student.weights[key]] = self.sizes[student.weights[key]] / size
        self.sizes |= {scale: scale.detach().clone() for scale in student.quantizers.parameters()}
        self.masks = None if self.lesson.readers else MovingMasks(student, teacher, inputs)
        self.average = deepcopy(student).requires_grad_(False)
        self.best = deepcopy(self.average)
        self.optimizer = torch.optim.Adam(list(self.sizes), lr=self.lesson.rate, eps=1e-12)
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
        """Move the weights once; return False, with the average unchanged, if the loss is not finite."""
        lesson, step = self.lesson, self.state.step
        schedule = min(1.0, (step + 1) / WARM) * (0.505 + 0.495 * cos(pi * step / lesson.steps))
        self.optimizer.param_groups[0]["lr"] = lesson.rate * self.state.pace * schedule
        masks = self.masks if step < MOVING * lesson.steps else None
        self.student.straight = masks is not None
        if masks is not None and step and step % EVERY == 0:
            masks.choose(self.average)
        # per step, so that a training that continues draws the same images
        generator = torch.Generator(self.device).manual_seed(lesson.seed + 1_000_003 * step)
        loss = self._loss(self.student, mixed(self.images, lesson.batch, lesson.strong, generator))
        if not isfinite(loss.item()):
            return False
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), LARGEST)
        self._move()
        if masks is not None:
            masks.decay()
        self.average.follow(self.student, step, STAYS)
        return True

    def _move(self) -> None:
        """Take Adam's step, relative to `sizes`: those of channels differ widely once batch norm is folded in."""
        parameters = list(self.sizes)
        before = [parameter.detach().clone() for parameter in parameters]
        self.optimizer.step()
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.sub_(old).mul_(self.sizes[parameter]).add_(old)

    def _loss(self, network: Network, pixels: Tensor) -> Tensor:
        return self.lesson.loss(network, self.teacher, self._input(pixels), self.lesson.features)

    def _input(self, pixels: Tensor) -> Tensor:
        return self.lesson.input(pixels).contiguous(memory_format=torch.channels_last)

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
        return {"student": self.student, "average": self.average, "best": self.best, "optimizer": self.optimizer}
