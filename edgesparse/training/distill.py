"""Trains a changed detector to match the original, without labels (Hinton et al., "Distilling the Knowledge", 2015).

Runs from a folder that holds everything: `teacher.onnx`, `student.onnx`, `images.npy` and `distill.json`. It needs only
PyTorch, NumPy and onnx, so the folder can be copied to a machine with a GPU:

    python -m edgesparse.training.distill FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from edgesparse.errors import ConfigError, ModelError
from edgesparse.progress import Progress
from edgesparse.training.lessons import Lesson, in_order, split
from edgesparse.training.moving import MEASURED, MOVING, MovingMasks, input_sizes
from edgesparse.training.network import Network
from edgesparse.training.steps import INT8_RATE, LAYOUTS, Steps, save_checkpoint, schedule, step_sizes

METHOD = "relative steps, best kept, judged in INT8"
"""How weights move: a checkpoint of another method is of another training."""
INT8_FROM = 0.6
"""Share of the training from which values are rounded to INT8: steps with rounding take several times as long. What is
kept is judged with rounding from the start.
"""
SAVE_EVERY = 20.0
"""Seconds between checkpoints."""
WARM = 100
"""Steps over which the learning rate rises."""
STRAYED = 1.05
"""From this multiple of the least error on, the training goes back to the weights that had it, and takes smaller steps:
a refitted student is close to its original, and how fast is too fast depends on it.
"""
SLOWER = 0.3
"""Factor of the learning rate each time that it goes back."""
STAYS = 0.999
"""How much of the averaged weights, which are the result, stays per step; less in the first steps."""


@dataclass
class State:
    """Progress of the training."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """Per checkpoint: `seconds`, `step`, `loss` over the last steps, `held_out` (loss of the averaged weights)."""
    least: float | None = None
    """The smallest `held_out`; those weights are the result."""
    pace: float = 1.0
    """Factor of the learning rate."""


def distill(folder: Path, progress: Progress) -> dict[str, Any]:
    """Train the folder's student, write `trained.onnx` and `report.json` there, and return the report.

    Continues from `checkpoint.pt` if it belongs to the same lesson. Raises ConfigError, ModelError.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _Training(folder, torch.device(device), progress).run()


class _Training:
    def __init__(self, folder: Path, device: torch.device, progress: Progress) -> None:
        self.folder, self.device, self.progress = folder, device, progress
        self.lesson = lesson = Lesson.load(folder)
        self.model = onnx.load(str(folder / "student.onnx"))
        self.teacher = lesson.network(onnx.load(str(folder / "teacher.onnx"))).to(device).eval().requires_grad_(False)
        self.student = lesson.student(self.model).to(device)
        self.student.rounding = False
        for network in (self.teacher, self.student):
            network.to(memory_format=LAYOUTS[device.type])  # type: ignore[call-overload]
        self._load_images()
        self.features = self._comparable()
        inputs = self._input_sizes()
        self.sizes = step_sizes(self.student, inputs)
        self.masks = MovingMasks(self.student, self._dense(), inputs) if self.student.masks else None
        self.average = deepcopy(self.student).requires_grad_(False)
        self.average.rounding = True
        self.best = deepcopy(self.average)
        self.steps = Steps(self.student, self.average, self._loss, self.sizes, self.masks, STAYS)
        self.state = State()

    def _load_images(self) -> None:
        pixels = torch.from_numpy(np.load(self.folder / "images.npy"))
        if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) < 2:
            raise ConfigError(f"images.npy holds {list(pixels.shape)}: needed two or more images [N, 3, H, W]")
        apart, others = split(len(pixels))
        self.held_out, self.images = pixels[apart].to(self.device), pixels[others].to(self.device)

    def _comparable(self) -> list[str]:
        """The features that the loss compares: those in which the student has not reordered the channels."""
        images = self._input(self.held_out[: self.lesson.batch])
        with torch.no_grad():
            return in_order(self.student(images), self.teacher(images), self.lesson.features)

    def _input_sizes(self) -> dict[str, Tensor]:
        return input_sizes(self.student, [self._input(self.images[:MEASURED])])

    def _dense(self) -> Network:
        """What pruned weights start from: the teacher's if it has the same layers with channels in the same order,
        otherwise 0.
        """
        weights, ordered = self.teacher.weights, self.features and len(self.features) == len(self.lesson.features)
        alike = all(key in weights and weights[key].shape == mask.shape for key, mask in self.student.masks.items())
        return self.teacher if ordered and alike else self.student

    def run(self) -> dict[str, Any]:
        self._resume()
        saved = begun = time.monotonic()
        before = self.state.seconds
        if not self.state.history:
            self._record()
        while (done := self._done()) < 1:
            self._step(done)
            self.state.step += 1
            self.state.seconds = before + time.monotonic() - begun
            self.progress("distilling", min(1000, int(1000 * self._done())), 1000)
            if time.monotonic() - saved > SAVE_EVERY:
                self._record()
                self._save()
                saved = time.monotonic()
        self._record()
        self._save()
        return self._finish()

    def _done(self) -> float:
        """The share of the training that is done."""
        lesson = self.lesson
        return max(self.state.step / max(lesson.steps, 1), self.state.seconds / max(60 * lesson.minutes, 1e-9))

    def _step(self, done: float) -> None:
        lesson, step = self.lesson, self.state.step
        self.student.rounding = done >= INT8_FROM
        rate = lesson.rate * self.state.pace * schedule(step, WARM, done)
        if lesson.readers and self.student.rounding:
            rate = min(rate, INT8_RATE)
        moving = done < MOVING
        if not self.steps.take(lesson.draw(self.images, step), step, rate, moving):
            self._refuse()

    def _refuse(self) -> None:
        raise ModelError(f"the loss is not finite after {self.state.step} steps: lower the learning rate")

    def _loss(self, network: Network, pixels: Tensor) -> Tensor:
        return self.lesson.loss(network, self.teacher, self._input(pixels), self.features)

    def _input(self, pixels: Tensor) -> Tensor:
        return self.lesson.input(pixels).contiguous(memory_format=LAYOUTS[pixels.device.type])

    def _record(self) -> None:
        with torch.no_grad():
            parts = self.held_out.split(self.lesson.batch)  # type: ignore[no-untyped-call]
            held_out = float(np.mean([self._loss(self.average, part).item() for part in parts]))
        trained = {"loss": self.steps.mean()} if self.steps.count else {}
        if not all(isfinite(value) for value in trained.values()):
            self._refuse()
        row = {"seconds": round(self.state.seconds, 1), "step": self.state.step, "held_out": held_out}
        self.state.history.append(row | trained)
        if self.state.least is None or held_out < self.state.least:
            self.state.least = held_out
            self.best.load_state_dict(self.average.state_dict())
        elif held_out > STRAYED * self.state.least:
            self.state.pace *= SLOWER
            for network in (self.student, self.average):
                network.load_state_dict(self.best.state_dict())

    @property
    def _key(self) -> str:
        return f"{METHOD} {self.lesson.key}"

    def _save(self) -> None:
        values = {
            "lesson": self._key,
            "state": asdict(self.state),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best.state_dict(),
            "optimizer": self.steps.state_dict(),
        }
        save_checkpoint(self.folder / "checkpoint.pt", values)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved["lesson"] != self._key:
            raise ConfigError(f"{path} is of another training: remove it to begin again, or name another folder")
        self.state = State(**saved["state"])
        self.student.load_state_dict(saved["student"])
        self.average.load_state_dict(saved["average"])
        self.best.load_state_dict(saved["best"])
        self.steps.load_state_dict(saved["optimizer"])

    def _finish(self) -> dict[str, Any]:
        self.best.write_to(self.model)
        onnx.save(self.model, str(self.folder / "trained.onnx"))
        report = {
            "device": torch.cuda.get_device_name(0) if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "images": len(self.images) + len(self.held_out),
            "features": self.features,
            **asdict(self.state),
            "best_step": next(row["step"] for row in self.state.history if row["held_out"] == self.state.least),
            "scales": self.best.scales(),
        }
        (self.folder / "report.json").write_text(json.dumps(report, indent=1))
        return report


def main() -> None:
    """Train in the folder that the command line names, and print a line every ten seconds."""
    printed = [time.monotonic()]

    def lines(step: str, done: int, total: int) -> None:
        if time.monotonic() - printed[0] > 10:
            printed[0] = time.monotonic()
            print(f"{step} {done / total:.0%}", flush=True)

    report = distill(Path(sys.argv[1]), lines)
    for row in report["history"]:
        print(row)
    print(f"{report['step']} steps in {report['seconds']:.0f} s on {report['device']}")


if __name__ == "__main__":
    main()
