"""What a student learns, and its losses: scores, boxes where the teacher sees objects, features inside the networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor
from torch.nn import functional

from edgesparse.training.augment import mixed
from edgesparse.training.network import Network

HELD_OUT = 0.06
"""Share of the images that are held out of training."""
Places = tuple[int, int]
"""First channel, and the channel after the last one."""


@dataclass(frozen=True)
class MapsSpec:
    """The meaning of the channels of a detector's maps; the maps of one stride are joined in order.

    `classes`: logits of one sigmoid per class or, with `softmax`, of one softmax. `box`: numbers or, with `bins`, the
    logits of a distribution over that many bins per side. `objectness`: the channel of its logit, if any.
    """

    box: Places
    classes: Places
    objectness: int | None = None
    bins: int = 1
    softmax: bool = False


@dataclass(frozen=True)
class Lesson:
    """What is trained and how: the contents of `distill.json`.

    `maps`, `features`: tensors of both networks that the loss compares, the latter times `feature_weight`, and those of
    them that are in `shifted` apart from a constant per channel; `spec`: the meaning of the maps' channels.
    `readers`, `scales_of`, `int8_layers`, `placement`: where values are rounded to INT8 (QdqPlan), empty without INT8;
    `scales`: of each quantized tensor at the start. `scale`, `mean`, `std`: how pixels 0..255
    become the input. Training ends after `minutes` or `steps`, whichever comes first. `strong`: how many images per
    batch are changed strongly.
    """

    maps: Sequence[str]
    features: Sequence[str]
    spec: MapsSpec
    shifted: Sequence[str] = ()
    readers: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    scales_of: dict[str, str] = field(default_factory=dict)
    int8_layers: Sequence[str] = ()
    placement: str = "fuse"
    scales: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    minutes: float = 10.0
    steps: int = 1_000_000
    batch: int = 32
    strong: int = 0
    rate: float = 5e-4
    seed: int = 0
    feature_weight: float = 1.0

    @classmethod
    def load(cls, folder: Path) -> Lesson:
        return cls.of(json.loads((folder / "distill.json").read_text()))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Lesson:
        """Return the lesson of these values, with `spec` as a mapping."""
        spec = {**values["spec"], **{name: tuple(values["spec"][name]) for name in ("box", "classes")}}
        return cls(**{**values, "spec": MapsSpec(**spec)})

    def network(self, model: ModelProto) -> Network:
        """Return what computes the maps and features of `model`. Raises ModelError, naming the node; see Network."""
        return Network(model, [*self.maps, *self.features])

    def student(self, model: ModelProto) -> Network:
        """Return the network to train, whose values are rounded where `readers` and `int8_layers` say."""
        network = self.network(model)
        if self.readers:
            readers = {name: {node: set(places) for node, places in by.items()} for name, by in self.readers.items()}
            network.quantize(readers, self.scales_of, self.int8_layers, self.scales)
        return network

    def draw(self, images: Tensor, step: int) -> Tensor:
        """Return the pixels 0..255 [B, 3, H, W] of a step, of images uint8 [N, 3, H, W]: the same for the same step, so
        that a training that continues draws the same images.
        """
        generator = torch.Generator(images.device).manual_seed(self.seed + 1_000_003 * step)
        return mixed(images, self.batch, self.strong, generator)

    def input(self, pixels: Tensor) -> Tensor:
        """Return the networks' input for pixels 0..255 [B, 3, H, W]."""
        mean, std = self._mean_and_std(pixels.device)
        images: Tensor = (pixels.float() * self.scale - mean) / std
        return images

    @cached_property
    def _mean_and_std(self) -> Callable[[torch.device], Tensor]:
        """Gives both, [2, 1, 3, 1, 1], on a device, to which they are copied once: a GPU waits for each copy."""
        return cache(torch.tensor([self.mean, self.std]).reshape(2, 1, 3, 1, 1).to)

    def loss(self, student: Network, teacher: Network, images: Tensor, features: Sequence[str]) -> Tensor:
        """Return how far the student's maps and `features` are from the teacher's on the networks' input `images`."""
        with torch.no_grad():
            target = teacher(images)
        own = student(images)
        maps = [{name: values[name] for name in self.maps} for values in (own, target)]
        inside = self.feature_weight * feature_loss(own, target, features, self.shifted)
        return output_loss(maps[0], maps[1], self.spec) + inside

    @property
    def key(self) -> str:
        """What a checkpoint must be of to be continued."""
        return json.dumps(asdict(self), sort_keys=True)


def split(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of `count` images are held out of training, at least one, and which are not."""
    apart = max(1, int(HELD_OUT * count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
    return order[:apart], order[apart:]


def joined(outputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the maps of each stride [B, channels, h, w] as rows [B, cells, channels]."""
    levels: dict[tuple[int, ...], list[Tensor]] = {}
    for value in outputs.values():
        levels.setdefault(tuple(value.shape[2:]), []).append(value)
    return [torch.cat(parts, 1).flatten(2).transpose(1, 2).float() for parts in levels.values()]


def output_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], spec: MapsSpec) -> Tensor:
    """The loss of scores everywhere and of boxes where the teacher sees objects, per object that it sees."""
    rows, targets = torch.cat(joined(student), 1), torch.cat(joined(teacher), 1)
    classes = slice(*spec.classes)
    if spec.softmax:
        share = targets[..., classes].softmax(-1)
        scores = functional.kl_div(rows[..., classes].log_softmax(-1), share, reduction="none").sum(-1)
    else:
        share = targets[..., classes].sigmoid()
        scores = _surprise(rows[..., classes], targets[..., classes]).sum(-1)
    confidence = share.amax(-1)
    if spec.objectness is not None:
        own = spec.objectness
        confidence = confidence * targets[..., own].sigmoid()
        # where there is no object, the class does not matter
        scores = scores * targets[..., own].sigmoid() + _surprise(rows[..., own], targets[..., own])
    weight = confidence / confidence.sum().clamp_min(1.0)
    return scores.sum() / confidence.sum().clamp_min(1.0) + (_box_error(rows, targets, spec) * weight).sum()


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the sigmoid of `logits`, less its minimum, so that 0 means equality."""
    share = targets.sigmoid()
    least = functional.binary_cross_entropy_with_logits(targets, share, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, share, reduction="none") - least


def _box_error(rows: Tensor, targets: Tensor, spec: MapsSpec) -> Tensor:
    own, other = rows[..., slice(*spec.box)], targets[..., slice(*spec.box)]
    if spec.bins == 1:
        return functional.smooth_l1_loss(own, other, reduction="none", beta=0.1).sum(-1)
    shape = (*own.shape[:-1], 4, spec.bins)
    log_share, share = own.reshape(shape).log_softmax(-1), other.reshape(shape).softmax(-1)
    return functional.kl_div(log_share, share, reduction="none").sum((-1, -2))


def feature_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], names: Sequence[str], shifted: Collection[str] = ()
) -> Tensor:
    """The squared difference of the tensors `names`, relative to the variance of each channel of the teacher's.

    Of those in `shifted`, less the mean difference of each channel: what the layers behind have in their biases.
    """
    losses = []
    for name in names:
        target = teacher[name].float()
        variance = target.var((0, 2, 3), keepdim=True) + 1e-3 * target.var() + 1e-8
        difference = student[name].float() - target
        if name in shifted:
            difference = difference - difference.mean((0, 2, 3), keepdim=True)
        losses.append((difference**2 / variance).mean())
    return torch.stack(losses).mean() if losses else torch.zeros(())


def in_order(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], names: Sequence[str]) -> list[str]:
    """Those of the tensors `names` [B, C, h, w] whose channels have the same order in both networks.

    A student may have reordered channels inside, as those of `reconstruct` do, with the same outputs. In the same
    order, most channels of the teacher correlate best with the channel of the same number.
    """
    return [name for name in names if _own_share(student[name], teacher[name]) > 0.5]


def _own_share(student: Tensor, teacher: Tensor) -> float:
    """The share of the teacher's channels that correlate best with the student's channel of the same number."""
    first, second = (
        functional.normalize(values - values.mean(1, keepdim=True), dim=1)
        for values in (tensor.float().transpose(0, 1).flatten(1) for tensor in (teacher, student))
    )
    varies = first.any(1)
    own = torch.arange(len(first), device=first.device)
    return float(((first @ second.T).argmax(1) == own)[varies].float().mean())
