"""INT8 in the training loop: activations are rounded as in an engine, and their scales are learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TOP = 127


class Quantizer(nn.Module):
    """Rounds to multiples of a learned scale (Esser et al., "Learned Step Size Quantization", ICLR 2020)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = _Rounded.apply(x, self.scale)  # type: ignore[no-untyped-call]
        return rounded


class _Rounded(torch.autograd.Function):
    """Values rounded to multiples of a scale, up to TOP of them, in one pass each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        scale = scale.detach().clamp_min(1e-12)
        ctx.save_for_backward(x, scale)
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, -TOP, TOP)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients pass straight through the rounding, and stop where a value is beyond the range."""
        (gradient,), (x, scale) = gradients, ctx.saved_tensors
        steps = x / scale
        clipped = steps.clamp(-TOP, TOP)
        inside = clipped == steps
        passed = gradient * inside
        # as in the paper, so that the scale's updates are about as large as the weights'
        slow = (x.numel() * TOP) ** -0.5
        own = torch.dot(gradient.flatten(), clipped.round().sub_(steps * inside).flatten())
        return passed, own * slow
