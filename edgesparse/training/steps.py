"""One step of `distill` and `refine`: Adam, relative to each channel's magnitude, and averaged weights.

On a GPU a step is recorded once, as a CUDA graph, and replayed: its thousands of small kernels take longer to start
from Python than to run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesparse.files import replacing
from edgesparse.training.moving import EVERY, MovingMasks
from edgesparse.training.network import Network

log = logging.getLogger(__name__)
TRAINING = {"batch": 4, "rate": 5e-4, "feature_weight": 4.0}
"""Of a Lesson on a processor: images per step, for 2 GB of memory, Adam's learning rate, relative to the weights, and
how much the features count."""
GPU_TRAINING = {**TRAINING, "batch": 16, "strong": 8, "rate": 1e-3}
"""On a GPU a step of 16 images takes about as long. Of many images some may be changed strongly; with few per step and
few steps, that raises the error."""
INT8_RATE = 1.5e-4
"""The learning rate where values are rounded: larger steps go astray before the first check."""
LAYOUTS = {"cpu": torch.channels_last, "cuda": torch.contiguous_format}
"""In which layout a device computes: on a processor, a step then takes a fifth less time."""
LARGEST = 5.0
"""The largest norm of the gradient."""
LOOK = 25
"""Steps between two looks at the loss on a GPU, which must finish its work for one."""
ALONG = 3
"""Steps on a GPU before one is recorded, in which cuDNN chooses its kernels and Adam allocates its state."""


def settings() -> dict[str, Any]:
    """Return the values of a Lesson that suit this machine."""
    return GPU_TRAINING if torch.cuda.is_available() else TRAINING


def save_checkpoint(path: Path, values: Mapping[str, Any]) -> None:
    """Write the file whole: an interruption or a power cut leaves the previous one."""
    with replacing(path, synced=True) as file:
        torch.save(values, file)


def step_sizes(student: Network, inputs: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """Return what a step of each parameter is relative to: its channel's magnitude, divided by its inputs' sizes.

    Magnitudes differ widely once batch norm is folded in. `inputs`: of `input_sizes`.
    """
    sizes = student.magnitudes()
    for key, size in inputs.items():
        sizes[student.weights[key]] = sizes[student.weights[key]] / size
    return sizes | {scale: scale.detach().clone() for scale in student.quantizers.parameters()}


def schedule(step: int, warm: int, done: float) -> float:
    """Return the factor of the learning rate at a step: it rises over the first `warm` ones, then falls to 0.01 along a
    cosine. `done`: the share of the training that is done.
    """
    return min(1.0, (step + 1) / warm) * (0.505 + 0.495 * cos(pi * done))


class Steps:
    """Moves a student's parameters, and `average`, a copy of it, behind them.

    `loss` computes the error of a network on images 0..255 [B, 3, H, W]; `sizes`: of `step_sizes`; `most`: how much of
    the averaged weights stays per step, less in the first ones. All that a step changes is changed in place, since a
    recorded step reads and writes the same memory each time.
    """

    def __init__(
        self,
        student: Network,
        average: Network,
        loss: Callable[[Network, Tensor], Tensor],
        sizes: Mapping[nn.Parameter, Tensor],
        masks: MovingMasks | None,
        most: float,
    ) -> None:
        self.student, self.average, self.loss = student, average, loss
        self.sizes, self.masks, self.most = sizes, masks, most
        self.device = next(student.parameters()).device
        self.recorded = self.device.type == "cuda"
        """Whether steps are recorded; then numbers that change are read from the device."""
        self.total, self.count = torch.zeros((), device=self.device), 0
        self.rate, self.share = (torch.zeros((), device=self.device) for _ in range(2))
        self.optimizer = torch.optim.Adam(list(sizes), eps=1e-12, capturable=self.recorded)
        self._pixels: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._kind: tuple[bool, ...] | None = None
        self._along, self._refused = 0, False
        if self.recorded:
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")

    def take(self, pixels: Tensor, step: int, rate: float, moving: bool) -> bool:
        """Move the weights once; return False if the loss is not finite, with weights and average unchanged.

        On a GPU, False comes some steps later, and all weights are lost: continue from a copy, after `forget`.
        `moving`: whether masks move, if there are any; they are chosen every EVERY steps.
        """
        masks = self.masks if moving else None
        if masks is not None and step and step % EVERY == 0:
            masks.choose(self.average)
        self.student.straight = masks is not None
        share = 1 - min(self.most, (1 + step) / (10 + step))
        self.count += 1
        if not self.recorded:
            self.optimizer.param_groups[0]["lr"] = rate
            loss = self.loss(self.student, pixels)
            if not isfinite(loss.item()):
                return False
            self._move(loss, masks, share)
            return True
        for place, value in ((self.rate, rate), (self.share, share)):
            place.fill_(value)
        self.optimizer.param_groups[0]["lr"] = self.rate
        if self._pixels is None or self._pixels.shape != pixels.shape:
            self._pixels, self._kind = torch.empty_like(pixels), None
        self._pixels.copy_(pixels)
        self._replay(masks, (masks is not None, self.student.rounding))
        return self.count % LOOK > 0 or self.finite()

    def finite(self) -> bool:
        """Whether all losses since the last `mean` were."""
        return isfinite(self.total.item())

    def mean(self) -> float:
        """Return the mean loss since the last call."""
        mean = self.total.item() / max(self.count, 1)
        self.total.zero_()
        self.count = 0
        return float(mean)

    def forget(self) -> None:
        """Forget what Adam remembers, if it is lost because a loss was not finite."""
        if self.recorded and not self.finite():
            self.total.zero_()
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Continue with Adam's state, from whichever device; call it before the first step."""
        own = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": values["state"], "param_groups": own})

    def _replay(self, masks: MovingMasks | None, kind: tuple[bool, ...]) -> None:
        """Take a step on the device: recorded before, or alike, until one of this kind has been recorded."""
        if kind != self._kind:
            self._kind, self._graph, self._along = kind, None, 0
        if self._graph is None and self._along >= ALONG and not self._refused:
            self._record(masks)
        if self._graph is not None:
            self._graph.replay()
            return
        self._along += 1
        with self._aside():
            self._whole(masks)

    def _whole(self, masks: MovingMasks | None) -> None:
        assert self._pixels is not None
        self._move(self.loss(self.student, self._pixels), masks, self.share)

    def _record(self, masks: MovingMasks | None) -> None:
        """Record a step without taking it. Where that fails, steps are started one kernel at a time."""
        try:
            stream = torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            try:
                with torch.cuda.graph(graph):
                    self._whole(masks)
            finally:
                torch.cuda.set_stream(stream)
            self._graph = graph
        except Exception as error:  # drivers, PyTorch's versions and single operators fail in different ways
            self._refused = True
            self.optimizer.zero_grad(set_to_none=True)
            reason = str(error).strip().split("\n")[0]
            log.warning("the training goes on, but slower: no CUDA graph (%s: %s)", type(error).__name__, reason)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """A stream of its own, as PyTorch asks for before recording."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Adam's, that a recordable step is not recorded
            if self.device.type != "cuda":
                yield
                return
            own, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(own)
            with torch.cuda.stream(side):
                yield
            own.wait_stream(side)

    def _move(self, loss: Tensor, masks: MovingMasks | None, share: float | Tensor) -> None:
        """Take Adam's step, relative to `sizes`, and let the average follow by `share` of the difference."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), LARGEST)
        parameters = list(self.sizes)
        before = [parameter.detach().clone() for parameter in parameters]
        self.optimizer.step()
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.sub_(old).mul_(self.sizes[parameter]).add_(old)
            if masks is not None:
                masks.decay()
            self.average.follow(self.student, share)
            self.total.add_(loss.detach())
