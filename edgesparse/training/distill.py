"""Trains a changed detector to match the original, without labels (Hinton et al., "Distilling the Knowledge", 2015).

Runs from a folder that holds everything: `teacher.onnx`, `student.onnx`, `images.npy` and `distill.json`. It needs only
PyTorch, NumPy and onnx, so the folder can be copied to a machine with a GPU:

    python -m edgesparse.training.distill FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from edgesparse.errors import ConfigError, ModelError
from edgesparse.files import replacing
from edgesparse.progress import Progress
from edgesparse.training.augment import augmented
from edgesparse.training.lessons import Lesson, in_order
from edgesparse.training.network import Network
from edgesparse.training.quantizer import Quantizer

MIX_UNTIL, INT8_FROM = 0.25, 0.6
"""Shares of the training: until which SiLU fades into ReLU, and from which values are rounded to INT8."""
HELD_OUT = 0.06
"""Share of the images that are held out of training."""
OBSERVED = 8
"""Batches on which ranges are measured before values are rounded."""
SAVE_EVERY = 20.0
"""Seconds between checkpoints."""


@dataclass
class State:
    """Progress of the training."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """Per checkpoint: `seconds`, `step`, `loss` over the last steps, `held_out` (loss of the averaged weights)."""


def save_checkpoint(path: Path, values: Mapping[str, Any]) -> None:
    """Write the file whole: an interruption or a power cut leaves the previous one."""
    with replacing(path, synced=True) as file:
        torch.save(values, file)


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
        torch.manual_seed(lesson.seed)
        self.generator = torch.Generator(device).manual_seed(lesson.seed)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        self.model = onnx.load(str(folder / "student.onnx"))
        self.teacher = lesson.network(onnx.load(str(folder / "teacher.onnx"))).to(device).eval().requires_grad_(False)
        self.student = lesson.student(self.model).to(device)
        self.average = deepcopy(self.student).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self._parameters(), lr=lesson.rate)
        self._load_images()
        self.features = self._comparable()
        self.state = State()

    def _parameters(self) -> list[dict[str, Any]]:
        scales = list(self.student.quantizers.parameters())
        own = {id(p) for p in scales}
        rest = [p for p in self.student.parameters() if id(p) not in own]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": 1e-4, "part": 1.0},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "part": 1.0},
        ]
        return [*groups, {"params": scales, "weight_decay": 0.0, "part": 0.1}] if scales else groups

    def _load_images(self) -> None:
        pixels = torch.from_numpy(np.load(self.folder / "images.npy"))
        if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) < 2:
            raise ConfigError(f"images.npy holds {list(pixels.shape)}: needed two or more images [N, 3, H, W]")
        apart = max(1, int(HELD_OUT * len(pixels)))
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        self.held_out = pixels[order[:apart]].to(self.device)
        self.images = pixels[order[apart:]].to(self.device)

    def _comparable(self) -> list[str]:
        """The features that the loss compares: those in which the student has not reordered the channels."""
        self.student.mix = 1.0 if self.lesson.blend else 0.0
        images = self.lesson.input(self.held_out[: self.lesson.batch])
        with torch.no_grad():
            return in_order(self.student(images), self.teacher(images), self.lesson.features)

    def run(self) -> dict[str, Any]:
        self._resume()
        saved = begun = time.monotonic()
        before, losses = self.state.seconds, list[float]()
        if not self.state.history:
            self._record(losses)
        while (done := self._done()) < 1:
            losses.append(self._step(done))
            self.state.step += 1
            self.state.seconds = before + time.monotonic() - begun
            self.progress("distilling", int(1000 * self._done()), 1000)
            if time.monotonic() - saved > SAVE_EVERY:
                self._record(losses)
                self._save()
                saved, losses = time.monotonic(), []
        self._record(losses)
        self._save()
        return self._finish()

    def _done(self) -> float:
        """The share of the training that is done."""
        lesson = self.lesson
        return max(self.state.step / max(lesson.steps, 1), self.state.seconds / max(60 * lesson.minutes, 1e-9))

    def _step(self, done: float) -> float:
        lesson, student = self.lesson, self.student
        warm = min(1.0, (self.state.step + 1) / 100)
        rate = float(lesson.rate * warm * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(done, 1.0)))))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["part"]
        student.mix = max(0.0, 1 - done / MIX_UNTIL) if lesson.blend else 0.0
        if lesson.readers and done >= INT8_FROM and self._observing():
            self._measure_ranges()
        loss = self._loss(student, augmented(self.images, lesson.batch, self.generator))
        if not torch.isfinite(loss):
            raise ModelError(f"the loss is {loss.item()} after {self.state.step} steps: lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        self.optimizer.step()
        self._follow()
        return float(loss.item())

    def _loss(self, student: Network, pixels: Tensor) -> Tensor:
        return self.lesson.loss(student, self.teacher, self.lesson.input(pixels), self.features)

    def _follow(self) -> None:
        """Update the averaged weights, which are the result of the training."""
        self.average.follow(self.student, self.state.step, 0.999)
        self.average.mix = self.student.mix

    def _observing(self) -> bool:
        return any(isinstance(m, Quantizer) and m.observing for m in self.student.quantizers.values())

    def _measure_ranges(self) -> None:
        with torch.no_grad():
            for _ in range(OBSERVED):
                self.student(self.lesson.input(augmented(self.images, self.lesson.batch, self.generator)))
        self._round(self.student)
        for mean, own in zip(self.average.quantizers.values(), self.student.quantizers.values(), strict=True):
            mean.load_state_dict(own.state_dict())
        self._round(self.average)

    def _round(self, network: Network) -> None:
        for quantizer in network.quantizers.values():
            quantizer.observing = False  # type: ignore[assignment]

    def _record(self, losses: Sequence[float]) -> None:
        with torch.no_grad():
            mix, self.average.mix = self.average.mix, 0.0  # pure ReLU, as in the result
            parts = self.held_out.split(self.lesson.batch)  # type: ignore[no-untyped-call]
            held_out = float(np.mean([self._loss(self.average, part).item() for part in parts]))
            self.average.mix = mix
        row = {"seconds": round(self.state.seconds, 1), "step": self.state.step, "held_out": held_out}
        self.state.history.append(row | ({"loss": float(np.mean(losses))} if losses else {}))

    def _save(self) -> None:
        values = {
            "lesson": self.lesson.key,
            "state": asdict(self.state),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rounding": bool(self.lesson.readers) and not self._observing(),
        }
        save_checkpoint(self.folder / "checkpoint.pt", values)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved["lesson"] != self.lesson.key:
            raise ConfigError(f"{path} is of another training: remove it to begin again, or name another folder")
        self.state = State(**saved["state"])
        self.student.load_state_dict(saved["student"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.manual_seed(self.lesson.seed + self.state.step)
        if saved["rounding"]:
            self._round(self.student)
            self._round(self.average)

    def _finish(self) -> dict[str, Any]:
        self.average.write_to(self.model)
        onnx.save(self.model, str(self.folder / "trained.onnx"))
        report = {
            "device": torch.cuda.get_device_name(0) if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "images": len(self.images) + len(self.held_out),
            "features": self.features,
            **asdict(self.state),
            "scales": self.average.scales() if self.lesson.readers and not self._observing() else {},
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
