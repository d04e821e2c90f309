"""2:4 masks that move while a network is trained (SR-STE: Zhou et al., 2021, arXiv:2102.04010).

Pruned weights keep values of their own, which do not count in the network but follow its gradients and decay. A weight
replaces a kept one of its group of four once it matters more: times the size of its input, as in Wanda (Sun et al.,
2023, arXiv:2306.11695).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgesparse.training.network import Network

DECAY = 1e-3
"""How much of itself a pruned weight loses per step."""
MOVING = 0.5
"""The share of the steps during which masks move."""
EVERY = 10
"""Steps between two choices of the masks."""
MEASURED = 16
"""The most images on which the sizes of the layers' inputs are measured."""
BELOW = 0.9
"""Where pruned weights begin at most, relative to the kept weight of their group that matters least."""
WIDEST = 4.0
"""How far an input channel may differ from the layer's others; beyond, it is taken to differ by this much."""


def input_sizes(network: Network, images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the root mean square [1, I, 1, 1] of each input channel of each convolution that is not grouped, by its
    weight's key, relative to that of all channels: from 1 / WIDEST to WIDEST.

    `images`: batches of the network's input [B, 3, H, W], one or more. These are the square roots of the diagonal of
    K-FAC's input factor (Martens and Grosse, 2015, arXiv:1503.05671).
    """
    count = sum(len(batch) for batch in images)
    sums: dict[str, Tensor] = {}
    for batch in images:
        for key, squares in network.input_squares(batch).items():
            sums[key] = sums.get(key, 0) + squares * (len(batch) / count)
    return {key: _relative(squares).reshape(1, -1, 1, 1) for key, squares in sums.items()}


def _relative(squares: Tensor) -> Tensor:
    squares = squares.clamp_min(1e-24)  # an input that is always 0
    return (squares / squares.mean()).sqrt().clamp(1 / WIDEST, WIDEST)


class MovingMasks:
    """The masks of `student`, whose pruned weights start as those of `dense`, but below the kept ones of their group.

    `dense` has its channels in the student's order. `inputs`: of `input_sizes`.
    """

    @torch.no_grad()
    def __init__(self, student: Network, dense: Network, inputs: Mapping[str, Tensor]) -> None:
        self.student, self.inputs = student, inputs
        for key, mask in student.masks.items():
            weight, size = student.weights[key], inputs.get(key, 1.0)
            start = torch.where(mask, weight, dense.weights[key])
            score, kept = (_groups(values) for values in ((start * size).abs(), mask))
            least = score.where(kept, torch.inf).amin(2, keepdim=True).nan_to_num(posinf=0.0)
            factor = (BELOW * least / score.clamp_min(1e-12)).clamp(max=1.0).where(~kept, 1.0)
            weight.copy_(start * factor.reshape(start.shape))

    @torch.no_grad()
    def choose(self, *copies: Network) -> None:
        """Choose the masks again, by what each weight of the student passes on, for it and its copies."""
        for key, mask in self.student.masks.items():
            score = _groups((self.student.weights[key] * self.inputs.get(key, 1.0)).abs())
            best = torch.zeros_like(score, dtype=torch.bool).scatter_(2, score.topk(2, 2).indices, True)
            mask.copy_(best.reshape(mask.shape))
            for copy in copies:
                copy.masks[key].copy_(mask)

    @torch.no_grad()
    def decay(self) -> None:
        """Move pruned weights towards 0."""
        for key, mask in self.student.masks.items():
            self.student.weights[key].mul_(1 - DECAY * ~mask)


def _groups(values: Tensor) -> Tensor:
    """Values [O, I, ...] as [O, I / 4, 4, ...]."""
    return values.reshape(values.shape[0], values.shape[1] // 4, 4, -1)
