"""One phase of training: a detector, its moving average, and a schedule with a time limit."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from demo_training.batches import Album
from demo_training.data import Stills
from demo_training.loss import detection_loss
from demo_training.net import Detector
from demo_training.score import Score, Truth, decode, evaluate

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """Duration and learning rate. The phase ends after `steps` or `seconds`, whichever comes first."""

    name: str
    seconds: float
    rate: float
    batch: int = 128
    steps: int = 1_000_000
    plain: float = 0.3  # last share of the phase, without mirrored, scaled or shifted images
    warm: float = 0.03
    decay: float = 0.02


Net = TypeVar("Net", bound=nn.Module)


class Average(Generic[Net]):
    """Exponential moving average of weights and batch norm statistics, over fewer steps at first."""

    def __init__(self, detector: Net, decay: float = 0.9995) -> None:
        self.detector, self._decay, self.steps = copy.deepcopy(detector).eval(), decay, 0
        self.detector.requires_grad_(False)
        self._mine, self._others = _floats(self.detector), _floats(detector)

    def update(self) -> None:
        self.steps += 1
        decay = self._decay * (1 - math.exp(-self.steps / 500))
        get_ema_multi_avg_fn(decay)(self._mine, self._others, self.steps)  # type: ignore[no-untyped-call]


class Phase:
    """The state of a phase; `save` and `load` preserve it across interruptions."""

    def __init__(self, plan: Plan, detector: Detector, seed: int) -> None:
        self.plan, self.detector = plan, detector
        device = next(detector.parameters()).device
        self.optimizer = torch.optim.AdamW(_groups(detector, plan.decay), plan.rate)
        self.average = Average(detector)
        self.random = torch.Generator(device).manual_seed(seed)
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        return min(1.0, max(self.step / self.plan.steps, self.seconds / max(self.plan.seconds, 1e-3)))

    def run(self, album: Album, say: Say, each_minute: Callable[[], None] = lambda: None) -> None:
        """Train to the end of the plan; calls `each_minute` about every minute."""
        before, clock, losses = self.seconds, time.monotonic(), []
        logged = saved = clock
        self.detector.train()
        while self.progress < 1:
            losses.append(self._learn(album))
            if self.step % 10 == 0 or self.plan.steps < 100:
                losses[-1].cpu()  # waits for the device, so that the time is correct
            now = time.monotonic()
            self.seconds = before + now - clock
            if now - logged > 10 or self.progress == 1:
                logged = now
                album.fill()
                self._tell(losses, len(album), say)
                losses.clear()
            if now - saved > 60:
                saved = now
                each_minute()

    def _learn(self, album: Album) -> torch.Tensor:
        progress, plan = self.progress, self.plan
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate * cosine(progress, plan.warm)
        batch = album.batch(plan.batch, self.random, 0.6 if progress < 1 - plan.plain else 0.0)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            outputs = self.detector(images)
        parts = detection_loss(self.detector, outputs, batch.boxes, batch.classes)
        self.optimizer.zero_grad(set_to_none=True)
        parts.sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.detector.parameters(), 10.0)
        self.optimizer.step()
        self.average.update()
        self.step += 1
        return parts.detach()

    def _tell(self, losses: list[torch.Tensor], scenes: int, say: Say) -> None:
        overlap, label, spread = torch.stack(losses).mean(0).tolist()
        speed = self.step * self.plan.batch / max(self.seconds, 1e-3)
        say(
            f"{self.plan.name}: {self.progress:4.0%}, step {self.step}, {speed:.0f} images/s of {scenes} scenes, "
            f"loss {overlap + label + spread:.3f} (overlap {overlap:.3f}, class {label:.3f}, sides {spread:.3f})"
        )
        if not math.isfinite(overlap + label + spread):
            raise SystemExit(f"{self.plan.name}: the loss is NaN; lower the learning rate")

    def save(self, path: Path) -> None:
        """Write the phase to `path`, and its optimizer next to it, since each file should stay small."""
        state = {
            "detector": self.detector.state_dict(),
            "average": self.average.detector.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        write(state, path)
        write(self.optimizer.state_dict(), optimizer_path(path))

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.detector.load_state_dict(state["detector"])
        self.average.detector.load_state_dict(state["average"])
        self.average.steps = self.step = state["step"]
        self.seconds = state["seconds"]
        self.random.manual_seed(self.random.initial_seed() + self.step)
        if optimizer_path(path).exists():
            beside = torch.load(optimizer_path(path), map_location="cpu", weights_only=True)
            self.optimizer.load_state_dict(beside)


def write(state: dict[str, Any], path: Path) -> None:
    """Save atomically."""
    part = path.with_name(path.name + ".part")
    torch.save(state, part)
    part.replace(path)


def optimizer_path(path: Path) -> Path:
    return path.with_name(path.stem + "_optimizer.pt")


@torch.no_grad()
def validate(detector: Detector, stills: Stills, batch: int = 64) -> Score:
    """Score the detector, in evaluation mode, on images in its own format."""
    device = next(detector.parameters()).device
    results = []
    for low in range(0, len(stills), batch):
        images = torch.from_numpy(stills.images[low : low + batch]).to(device).float().div_(255)
        results += [decode(output) for output in detector(images).cpu().numpy()]
    return evaluate(results, truth_of(stills), detector.classes)


def truth_of(stills: Stills) -> list[Truth]:
    real = stills.classes >= 0
    return [Truth(b[r], c[r]) for b, c, r in zip(stills.boxes, stills.classes, real, strict=True)]


def _groups(detector: Detector, decay: float) -> list[dict[str, Any]]:
    """Apply weight decay only to the convolutions' weights."""
    weights = [p for p in detector.parameters() if p.ndim > 1]
    rest = [p for p in detector.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def cosine(progress: float, warm: float) -> float:
    if progress < warm:
        return max(progress / warm, 0.01)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def _floats(model: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
