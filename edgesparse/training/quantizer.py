"""INT8 in the training loop: activations are rounded as in an engine, and their scales are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOP = 127
SHARE = 0.9999
"""Share of the values that the initial range covers."""
SAMPLE = 1 << 20
"""The most values of a tensor from which the initial range is computed."""


class Quantizer(nn.Module):
    """Rounds to multiples of a learned scale (Esser et al., "Learned Step Size Quantization", ICLR 2020).

    While `observing`, calls only measure the range: the magnitude that SHARE of the values do not exceed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.observing = True

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            with torch.no_grad():
                values = x.detach().abs().flatten().float()
                values = values[:: max(1, len(values) // SAMPLE)]
                most = values.kthvalue(max(1, int(SHARE * len(values)))).values
                self.scale.copy_(torch.maximum(self.scale, most / TOP))
            return x
        # as in the paper, so that the scale's updates are about as large as the weights'
        slow = (x.numel() * TOP) ** -0.5
        scale = (self.scale * slow + (self.scale - self.scale * slow).detach()).clamp_min(1e-12)
        steps = (x / scale).clamp(-TOP, TOP)
        rounded: Tensor = (steps + (torch.round(steps) - steps).detach()) * scale
        return rounded
